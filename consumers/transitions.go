package consumers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"backstop/dispatcher/breaker"
	"backstop/streams"
	"backstop/streams/killpoint"
)

// Transitions queues what breakers report, so that a breaker never waits for
// the network. Make one with NewTransitions, give Push to breaker.NewSet, and
// the Transitions to the Pipeline.
type Transitions struct {
	mu     sync.Mutex
	queue  []breaker.Change
	pushed chan struct{}
}

// NewTransitions returns an empty queue.
func NewTransitions() *Transitions { return &Transitions{pushed: make(chan struct{}, 1)} }

// Push queues a change. It never blocks: at most a few changes per endpoint
// can be waiting.
func (t *Transitions) Push(c breaker.Change) {
	t.mu.Lock()
	t.queue = append(t.queue, c)
	t.mu.Unlock()
	select {
	case t.pushed <- struct{}{}:
	default:
	}
}

func (t *Transitions) take() []breaker.Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.queue
	t.queue = nil
	return taken
}

// followBreakers makes known what breakers of this process did: to the runner
// of the endpoint's own lane, to other replicas through the breakers bucket,
// and to people by a notice. It ends with ctx.
func (p *Pipeline) followBreakers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.cfg.Transitions.pushed:
			for _, c := range p.cfg.Transitions.take() {
				p.breakerChanged(ctx, c)
			}
		}
	}
}

func (p *Pipeline) breakerChanged(ctx context.Context, c breaker.Change) {
	e := p.fleet.get(c.ID)
	if d := e.declared.Load(); d != nil && c.To == breaker.Open {
		d.limiter.StartSmall() // for when it closes: not to flood an app that comes back
	}
	e.wake()
	p.log.Info("breaker", "endpoint", c.ID.String(), "from", c.From.String(), "to", c.To.String(), "until", c.Until, "cause", string(c.Cause))
	if c.To != breaker.HalfOpen {
		defer p.probes.decided(c.ID) // once the others can know
	}
	if c.Cause == breaker.CauseRemote || c.Cause == breaker.CauseOperator {
		p.wishes.overtaken(c.ID)
		return // it came from the bucket
	}
	since := p.clock.now()
	switch c.To { //nolint:exhaustive // half-open is each replica's own
	case breaker.Open:
		killpoint.Here(killpoint.BreakerOpened)
		p.wishes.record(ctx, p.opened(c, since))
		p.notices.send(streams.NoticeBreakerOpened, c.ID, fmt.Sprintf("%s failed %d times in a row; its events wait until %s",
			c.ID, c.Failures, c.Until.UTC().Format(time.TimeOnly)), map[string]any{"failures": c.Failures, "until": c.Until})
	case breaker.Closed:
		p.wishes.record(ctx, p.closed(c, since))
		p.notices.send(streams.NoticeBreakerClosed, c.ID, c.ID.String()+" works again", map[string]any{"by": p.cfg.Replica})
	}
}

// opened has the bucket say that a breaker is open.
func (p *Pipeline) opened(c breaker.Change, since time.Time) *gateWish {
	gate := streams.Gate{
		Capability: c.ID.Capability, App: c.ID.App, State: streams.GateOpen,
		Since: since, Until: p.clock.theirs(c.Until), Reason: fmt.Sprintf("%d failures in a row", c.Failures), By: p.cfg.Replica,
	}
	return &gateWish{id: c.ID, write: func(ctx context.Context, _ bool) error {
		_, err := p.gates.SetUnless(ctx, gate, func(now streams.Gate) bool {
			// One that tells late must not end what another has found out since.
			return decided(now) || now.State == streams.GateOpen && now.Until.After(gate.Until)
		})
		return err
	}}
}

// closed has the bucket say that a breaker is closed.
func (p *Pipeline) closed(c breaker.Change, since time.Time) *gateWish {
	return &gateWish{id: c.ID, write: func(ctx context.Context, again bool) error {
		_, err := p.gates.ClearIf(ctx, c.ID, func(g streams.Gate) bool {
			newer := again && g.Since.After(since.Add(clockJitter)) // another replica's has opened since
			return !newer && (g.State == streams.GateOpen || g.State == streams.GateHalfOpen)
		})
		return err
	}}
}

// decided tells whether a person, or the app itself, has decided about the
// endpoint; a breaker's trip doesn't overwrite that.
func decided(g streams.Gate) bool {
	return g.State == streams.GateForced || g.State == streams.GateDisabled
}

// followGates takes over what the breakers bucket says, from other replicas
// and operators, until ctx ends. loaded is called when all that was there at
// the beginning has been taken over.
func (p *Pipeline) followGates(ctx context.Context, loaded func()) error {
	return p.gates.Watch(ctx, p.log, loaded, p.applyGate)
}

// applyGate takes over the endpoint's gate; nil means that it is gone.
func (p *Pipeline) applyGate(id streams.EndpointID, g *streams.Gate) {
	e := p.fleet.get(id)
	defer e.wake()
	g = p.clock.gate(g)
	wasDisabled := e.disabled.Swap(g != nil && g.State == streams.GateDisabled)
	if wasDisabled && !e.disabled.Load() {
		p.log.Info("endpoint enabled", "endpoint", id.String())
		p.wishes.enabled(id)
	}
	e.setGate(g, p.cfg.Now())
	p.health.gate(id, g)
	if trips(g) {
		p.alerting.soon()
	}
}

// disable records that the app wants no more events (410). Other replicas
// learn it from the bucket.
func (p *Pipeline) disable(e *endpoint) {
	if e.disabled.Swap(true) {
		return
	}
	gate := streams.Gate{
		Capability: e.id.Capability, App: e.id.App, State: streams.GateDisabled,
		Since: p.clock.now(), Reason: "the app answered 410 Gone", By: p.cfg.Replica,
	}
	p.wishes.record(p.work, &gateWish{id: e.id, disable: true, write: func(ctx context.Context, again bool) error {
		if again && !e.disabled.Load() {
			return nil // somebody has enabled it since
		}
		_, err := p.gates.SetUnless(ctx, gate, func(now streams.Gate) bool { return now.State == streams.GateDisabled })
		return err
	}})
	p.notices.send(streams.NoticeEndpointDisabled, e.id, e.id.String()+" answered 410 Gone and was disabled; enable it with: backstop apps enable "+e.id.App+" "+e.id.Capability, map[string]any{"reason": gate.Reason, "by": p.cfg.Replica})
}
