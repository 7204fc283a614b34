package consumers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// scanEvery is how often LANES is searched for events whose endpoint has no
// runner here: parked by another replica, or by a process that died.
const scanEvery = 2 * time.Second

// lanes keeps a runner for the own lane of every endpoint in trouble.
type lanes struct {
	p       *Pipeline
	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // of run, which owns the runners that want starts; nil before
	runners map[streams.EndpointID]*runner
	running sync.WaitGroup
}

// runner counts what this process parks, so that a lane found empty is not
// taken down under an event on its way into it.
type runner struct{ parked uint64 }

func newLanes(p *Pipeline) *lanes {
	return &lanes{p: p, runners: make(map[streams.EndpointID]*runner)}
}

// want makes sure that the endpoint's own lane has a runner, before an event
// is parked in it.
func (l *lanes) want(e *endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.runners[e.id]
	if r == nil {
		if l.ctx == nil || l.ctx.Err() != nil {
			return // stopping: the next start finds the event in LANES
		}
		r = &runner{}
		l.runners[e.id] = r
		own := &ownLane{p: l.p, e: e}
		ctx := l.ctx
		l.running.Go(func() {
			own.run(ctx, func() uint64 { return l.count(r) }, func(seen uint64) bool { return l.done(e.id, r, seen) })
		})
	}
	r.parked++
}

func (l *lanes) count(r *runner) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return r.parked
}

// done ends a runner whose lane is empty, unless events were parked since it
// began to look.
func (l *lanes) done(id streams.EndpointID, r *runner, seen uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.parked != seen {
		return false
	}
	delete(l.runners, id)
	return true
}

// run searches LANES at once and then regularly, until ctx ends and every
// runner has.
func (l *lanes) run(ctx context.Context) {
	l.mu.Lock()
	l.ctx = ctx
	l.mu.Unlock()
	defer func() {
		l.mu.Lock() // a want that still saw a live context has added its runner by now
		l.ctx = nil
		l.mu.Unlock()
		l.running.Wait()
	}()
	for ctx.Err() == nil {
		if err := l.scan(ctx); err != nil && ctx.Err() == nil {
			l.p.log.Warn("can't look for parked events, trying again", "error", err)
		}
		sleep(ctx, scanEvery)
	}
}

func (l *lanes) scan(ctx context.Context) error {
	stream, err := l.p.js.Stream(ctx, streams.LaneStream)
	if err != nil {
		return err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(string(streams.Lanes)+".>"))
	if err != nil {
		return err
	}
	for subject := range info.State.Subjects {
		_, id, err := streams.ParseSubject(subject)
		if err != nil || id.App == "" {
			continue
		}
		l.mu.Lock()
		known := l.runners[id] != nil
		l.mu.Unlock()
		if !known {
			e := l.p.fleet.get(id)
			// What waits here came first; new events go behind it.
			e.box.divert(true)
			l.want(e)
		}
	}
	return l.sweep(ctx, stream, info.State.Subjects)
}

// sweep removes durables that a process left behind when it died between
// emptying a lane and removing it.
func (l *lanes) sweep(ctx context.Context, stream jetstream.Stream, subjects map[string]uint64) error {
	if stream.CachedInfo().State.Consumers <= len(subjects) {
		return nil
	}
	infos := stream.ListConsumers(ctx)
	for info := range infos.Info() {
		_, id, err := streams.ParseSubject(info.Config.FilterSubject)
		if err != nil || info.NumPending > 0 || info.NumAckPending > 0 {
			continue
		}
		l.mu.Lock()
		known := l.runners[id] != nil
		l.mu.Unlock()
		if !known {
			l.want(l.p.fleet.get(id)) // its runner finds the lane empty and removes it
		}
	}
	if err := infos.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return err
	}
	return nil
}
