package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"backstop/streams"
	"backstop/streams/killpoint"
)

// How often decided requests that are done are swept, and how soon what failed
// is tried again.
const (
	sweepDecisionsEvery = time.Hour
	decisionRetry       = 5 * time.Second
)

// decisions carries out what people decided about pending calls: the decision
// goes to results.<capability>.<app>, and an approved call to the app, as an
// event, which waits in the endpoint's lane for as long as the app doesn't work.
//
// Whoever decides only records it. So a decision is made once, by
// compare-and-set, also when no pipeline runs; and it is carried out until it
// is marked as done, by whichever replica does so first: what two do is
// de-duplicated.
type decisions struct {
	p       *Pipeline
	open    map[string]*decision // by the request's key
	changed chan streams.PendingRequest
}

// decision is one that is not done.
type decision struct {
	streams.PendingRequest
	// queued says that the approved call is on its way: repeated for longer than
	// LANES de-duplicates, it would be another.
	queued bool
}

func newDecisions(p *Pipeline) *decisions {
	return &decisions{p: p, open: make(map[string]*decision), changed: make(chan streams.PendingRequest)}
}

// run carries out decisions as they are made, until ctx ends. It begins with
// those that were left, once the endpoints are known.
func (d *decisions) run(ctx context.Context) {
	retry, sweep := time.NewTicker(decisionRetry), time.NewTicker(sweepDecisionsEvery)
	defer retry.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-d.changed:
			known := d.open[r.Key()]
			if known == nil || !known.DecidedAt.Equal(r.DecidedAt) {
				known = &decision{PendingRequest: r}
				d.open[r.Key()] = known
			}
			d.carryOut(ctx, known)
		case <-retry.C:
			for _, r := range d.open {
				d.carryOut(ctx, r)
			}
		case now := <-sweep.C:
			if _, err := d.p.pendings.Sweep(ctx, now); err != nil && ctx.Err() == nil {
				d.p.log.Warn("can't sweep decided requests, trying again later", "error", err)
			}
		}
	}
}

// follow watches the bucket for decisions until ctx ends.
func (d *decisions) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := d.p.pendings.Watch(ctx, d.p.log, func() {}, func(_ string, r *streams.PendingRequest) {
			if r == nil || r.State == streams.PendingWaiting || r.Done {
				return
			}
			select {
			case d.changed <- *r:
			case <-ctx.Done():
			}
		})
		if err != nil && ctx.Err() == nil {
			d.p.log.Warn("lost the watch on pending requests, trying again", "error", err)
			sleep(ctx, time.Second)
		}
	}
}

// carryOut does what was decided, and marks it as done. What fails stays open.
func (d *decisions) carryOut(ctx context.Context, r *decision) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := d.tell(ctx, r)
	if errors.Is(err, streams.ErrNoPending) {
		// Everybody was told, and somebody has removed the request meanwhile:
		// there is nothing left to mark.
		d.p.log.Warn("a decision was carried out, and its request is gone", "id", r.ID, "endpoint", r.EndpointID().String())
		delete(d.open, r.Key())
		return
	}
	if err != nil {
		d.p.log.Warn("can't carry out a decision yet, trying again", "id", r.ID, "endpoint", r.EndpointID().String(), "error", err)
		return
	}
	delete(d.open, r.Key())
	d.p.log.Info("decided", "id", r.ID, "endpoint", r.EndpointID().String(), "decision", string(r.State), "by", r.DecidedBy)
}

func (d *decisions) tell(ctx context.Context, r *decision) error {
	if r.State == streams.PendingApproved && !r.queued {
		// The id of the decision is the origin: carried out twice it is one
		// event, and one dead letter at most.
		err := d.p.enqueue(ctx, streams.Event{
			ID: r.ID, Origin: fmt.Sprintf("approved-%s-%d", r.ID, r.DecidedAt.UnixNano()), EndpointID: r.EndpointID(),
			Payload: r.Payload, PublishedAt: r.DecidedAt, TraceParent: r.TraceParent, TraceState: r.TraceState,
		})
		if err != nil {
			return err
		}
		r.queued = true
		killpoint.Here(killpoint.DecisionQueued)
	}
	result, err := decisionResult(r.PendingRequest)
	if err != nil {
		return err
	}
	if _, err := d.p.js.PublishMsg(ctx, result.Msg()); err != nil {
		return fmt.Errorf("publish the decision: %w", err)
	}
	killpoint.Here(killpoint.DecisionTold)
	return d.p.pendings.MarkDone(ctx, r.Key())
}

// decisionResult is what services learn of a decision.
func decisionResult(r streams.PendingRequest) (streams.Result, error) {
	kind := streams.ResultRejected
	if r.State == streams.PendingApproved {
		kind = streams.ResultApproved
	}
	body, err := json.Marshal(struct {
		ID        string               `json:"id"`
		Decision  streams.PendingState `json:"decision"`
		By        string               `json:"by"`
		Why       string               `json:"why,omitempty"`
		DecidedAt time.Time            `json:"decidedAt"`
	}{r.ID, r.State, r.DecidedBy, r.Why, r.DecidedAt})
	return streams.Result{
		ID: r.ID, EndpointID: r.EndpointID(), Kind: kind, Payload: body,
		Origin: fmt.Sprintf("%s-%d", r.ID, r.DecidedAt.UnixNano()),
	}, err
}
