package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// Queue is one capability's stream and its shared lane.
type Queue struct {
	Capability string `json:"capability"`
	// Backlog is the events that no endpoint has, nor an own lane.
	Backlog uint64 `json:"backlog"`
	// InFlight is those of them that a replica has in hand.
	InFlight int `json:"inFlight"`
	// OldestAgeMs is the age of the oldest of the backlog.
	OldestAgeMs int64 `json:"oldestAgeMs"`
	// The rates are null when they weren't measured.
	PublishedPerSecond *float64 `json:"publishedPerSecond"`
	SettledPerSecond   *float64 `json:"settledPerSecond"`
	// Retired says that no app declares the capability as async any more.
	Retired bool `json:"retired,omitempty"`
}

// reading is what one look at a capability's stream tells.
type reading struct {
	at        time.Time
	published uint64 // sequence of the last event
	settled   uint64 // events that the shared lane is done with
	backlog   uint64
	inFlight  int
	next      uint64 // sequence from which on something isn't settled
	retired   bool
}

// Queues looks at every capability's stream, twice if rates are wanted.
func (o *Ops) Queues(ctx context.Context, interval time.Duration) ([]Queue, error) {
	before, err := o.readings(ctx)
	if err != nil {
		return nil, err
	}
	now := before
	if interval > 0 && len(before) > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(interval):
		}
		if now, err = o.readings(ctx); err != nil {
			return nil, err
		}
	}
	all := []Queue{}
	for capability, r := range now {
		s := Queue{Capability: capability, Backlog: r.backlog, InFlight: r.inFlight, Retired: r.retired}
		if s.OldestAgeMs, err = o.oldestAge(ctx, capability, r); err != nil {
			return nil, err
		}
		if b, ok := before[capability]; ok && interval > 0 {
			s.PublishedPerSecond = perSecondBetween(b.published, r.published, r.at.Sub(b.at))
			s.SettledPerSecond = perSecondBetween(b.settled, r.settled, r.at.Sub(b.at))
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y Queue) int { return strings.Compare(x.Capability, y.Capability) })
	return all, nil
}

func perSecondBetween(before, now uint64, elapsed time.Duration) *float64 {
	rate := 0.0
	if now > before && elapsed > 0 { // less after a redelivery that came back, or a stream made anew
		rate = float64(now-before) / elapsed.Seconds()
	}
	return &rate
}

// readings looks at the stream of every capability.
func (o *Ops) readings(ctx context.Context) (map[string]reading, error) {
	all := make(map[string]reading)
	list := o.js.ListStreams(ctx)
	for info := range list.Info() {
		capability, ok := strings.CutPrefix(info.Config.Name, streams.EventStreamPrefix)
		if !ok {
			continue
		}
		r := reading{at: time.Now(), published: info.State.LastSeq, retired: Retired(info.Config, capability)}
		consumer, err := o.js.Consumer(ctx, info.Config.Name, streams.EventConsumer)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
			continue // it is just being made, or removed
		case err != nil:
			return nil, fmt.Errorf("consumer %s of %s: %w", streams.EventConsumer, info.Config.Name, err)
		}
		lane := consumer.CachedInfo()
		r.inFlight = lane.NumAckPending
		unacked := uint64(max(lane.NumAckPending, 0))
		r.backlog = lane.NumPending + unacked
		// Both numbers from one answer, so that they fit together.
		r.settled = lane.Delivered.Stream - min(unacked, lane.Delivered.Stream)
		r.next = lane.AckFloor.Stream + 1
		all[capability] = r
	}
	return all, list.Err()
}

// Retired tells whether publishers no longer reach the capability's stream.
func Retired(cfg jetstream.StreamConfig, capability string) bool {
	return !slices.Contains(cfg.Subjects, streams.EndpointID{Capability: capability}.Subject(streams.Events))
}

// oldestAge returns the age in milliseconds of the oldest event that isn't settled.
func (o *Ops) oldestAge(ctx context.Context, capability string, r reading) (int64, error) {
	if r.backlog == 0 {
		return 0, nil
	}
	stream, err := o.js.Stream(ctx, streams.EventStream(capability))
	if err == nil {
		var msg *jetstream.RawStreamMsg
		if msg, err = stream.GetMsg(ctx, r.next, jetstream.WithGetMsgSubject(">")); err == nil {
			return max(time.Since(msg.Time).Milliseconds(), 1), nil
		}
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil // settled in the meantime
	}
	return 0, fmt.Errorf("oldest event of %s: %w", capability, err)
}

// Lane is the own lane of an endpoint in trouble.
type Lane struct {
	App        string `json:"app"`
	Capability string `json:"capability"`
	// Consumer is the lane's durable on LANES.
	Consumer string `json:"consumer"`
	// Backlog is the events in the lane.
	Backlog uint64 `json:"backlog"`
	// Waiting is those of them that were handed out: in flight, or waiting
	// for their next attempt.
	Waiting int `json:"waiting"`
	// PausedUntil is when the lane goes on by itself. Zero: it isn't paused.
	PausedUntil time.Time `json:"pausedUntil,omitzero"`
}

// OldestInLane returns when the first event of an endpoint's own lane was
// published; zero when the lane is empty.
func (o *Ops) OldestInLane(ctx context.Context, id streams.EndpointID) (time.Time, error) {
	stream, err := o.js.Stream(ctx, streams.LaneStream)
	if err != nil {
		return time.Time{}, err
	}
	return OldestIn(ctx, stream, id)
}

// OldestIn is OldestInLane for whoever has the stream LANES at hand.
func OldestIn(ctx context.Context, lanes jetstream.Stream, id streams.EndpointID) (time.Time, error) {
	first, err := lanes.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(id.Subject(streams.Lanes)))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil // drained in the meantime
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("first event in the lane of %s: %w", id, err)
	}
	event, err := streams.DecodeRaw(first)
	if err != nil {
		return time.Time{}, nil //nolint:nilerr // whoever consumes it deals with it
	}
	return event.PublishedAt, nil
}

// Lanes lists the lanes, the longest first, never nil.
func (o *Ops) Lanes(ctx context.Context) ([]Lane, error) {
	stream, err := o.js.Stream(ctx, streams.LaneStream)
	if err != nil {
		return nil, err
	}
	lanes := []Lane{}
	list := stream.ListConsumers(ctx)
	for info := range list.Info() {
		// The subject names the endpoint; the durable's name may be a hash.
		_, id, err := streams.ParseSubject(info.Config.FilterSubject)
		if err != nil {
			continue // somebody looks at the stream with a consumer of their own
		}
		l := Lane{
			App: id.App, Capability: id.Capability, Consumer: info.Name,
			Backlog: info.NumPending + uint64(max(info.NumAckPending, 0)), Waiting: info.NumAckPending,
		}
		if info.Paused {
			l.PausedUntil = time.Now().Add(info.PauseRemaining).UTC().Round(time.Millisecond)
		}
		lanes = append(lanes, l)
	}
	slices.SortFunc(lanes, func(x, y Lane) int {
		return cmp.Or(cmp.Compare(y.Backlog, x.Backlog), strings.Compare(x.Consumer, y.Consumer))
	})
	return lanes, list.Err()
}
