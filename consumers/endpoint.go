package consumers

import (
	"sync"
	"sync/atomic"
	"time"

	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/dispatcher/limit"
	"backstop/streams"
	"backstop/streams/manifest"
)

// endpoint is what this process knows about one app's webhook for one
// capability. It is made when the webhook is first heard of, by its manifest
// or by an event left in its lane, and stays.
type endpoint struct {
	id      streams.EndpointID
	box     *mailbox
	changed chan struct{} // one token whenever what blocks the endpoint may have changed

	// declared is nil while no manifest declares the endpoint.
	declared atomic.Pointer[declaration]
	disabled atomic.Bool // by the app (410) or by an operator

	mu sync.Mutex
	// gate is what the breakers bucket says; nil means nothing.
	gate *streams.Gate
	// lastTripped is when the bucket last said that the breaker is not closed.
	lastTripped time.Time
	// pausedUntil is until when the app asked to be left alone (429).
	pausedUntil time.Time
	// yieldsUntil is until when another replica is left to probe the endpoint.
	yieldsUntil time.Time
}

// declaration is the endpoint as its manifest declares it, with the state that
// belongs to it.
type declaration struct {
	config  manifest.Endpoint
	breaker *breaker.Breaker
	limiter *limit.Limiter
}

// undeclaredWindow is how many events of an endpoint that nobody declares are
// handled at once: each only becomes a dead letter.
const undeclaredWindow = 8

func newEndpoint(id streams.EndpointID, run func(*endpoint, *delivery), busy *sync.WaitGroup) *endpoint {
	e := &endpoint{id: id, changed: make(chan struct{}, 1)}
	e.box = newMailbox(e.window, func(d *delivery) { run(e, d) }, busy)
	return e
}

func (e *endpoint) window() int {
	if d := e.declared.Load(); d != nil {
		return d.limiter.Window()
	}
	return undeclaredWindow
}

// takes returns the declaration by which the endpoint takes events, nil when there
// is none. What is in its own lane may have been a call.
func (e *endpoint) takes(own bool) *declaration {
	if d := e.declared.Load(); d != nil && (d.config.Async || own) {
		return d
	}
	return nil
}

// wake tells the runner of the endpoint's own lane to look again.
func (e *endpoint) wake() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// tripped returns what the breakers bucket says of the endpoint, nil while its
// breaker is closed, and when that was last seen to be otherwise: the zero time
// for never.
func (e *endpoint) tripped() (*streams.Gate, time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if trips(e.gate) {
		return e.gate, e.lastTripped
	}
	return nil, e.lastTripped
}

// trips tells whether a gate is that of a breaker which is not closed.
func trips(g *streams.Gate) bool { return g != nil && g.State != streams.GateDisabled }

// setGate takes over what the breakers bucket says of the endpoint, now; nil
// means that it has no entry (any more).
func (e *endpoint) setGate(g *streams.Gate, now time.Time) {
	e.mu.Lock()
	if trips(e.gate) || trips(g) {
		e.lastTripped = now
	}
	e.gate, e.yieldsUntil = g, time.Time{}
	e.mu.Unlock()
	if d := e.declared.Load(); d != nil {
		switch {
		case g == nil:
			d.breaker.Reset(breaker.CauseRemote)
		case g.State == streams.GateHalfOpen:
			endWait(d.breaker)
		}
	}
	e.applyGate()
}

// endWait lets probes through a breaker that would have stayed open for a
// while. Done when the bucket tells, and not with every applyGate: a breaker
// that opens again after it has to stay so.
func endWait(b *breaker.Breaker) {
	now := time.Now()
	if state, until := b.State(); state == breaker.Open && until.After(now) {
		b.Trip(now, breaker.CauseRemote)
	}
}

// applyGate trips the breaker if the bucket says so. An endpoint that is not
// declared yet has no breaker; it is done again when it is.
func (e *endpoint) applyGate() {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.declared.Load()
	if d == nil || e.gate == nil {
		return
	}
	state, until := d.breaker.State()
	switch e.gate.State { //nolint:exhaustive // the others are not the breaker's
	case streams.GateForced:
		if state != breaker.Open || !until.IsZero() {
			d.breaker.Trip(time.Time{}, breaker.CauseOperator)
		}
	case streams.GateOpen:
		// Half-open here and open there: another replica has probed, in vain.
		if state == breaker.Closed || state == breaker.HalfOpen && e.gate.Until.After(time.Now()) {
			d.breaker.Trip(e.gate.Until, breaker.CauseRemote)
		}
	case streams.GateHalfOpen:
		if state == breaker.Closed { // as in a process that has just started
			d.breaker.Trip(time.Now(), breaker.CauseRemote)
		}
	}
}

// pause leaves the app alone until the given time, as it asked.
func (e *endpoint) pause(until time.Time) {
	e.mu.Lock()
	if until.After(e.pausedUntil) {
		e.pausedUntil = until
	}
	e.mu.Unlock()
	e.wake()
}

// yield leaves it to another replica to probe the endpoint until the given time,
// or until the bucket tells what came of it.
func (e *endpoint) yield(until time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.yieldsUntil = until
}

func (e *endpoint) yields(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.yieldsUntil.After(now)
}

// blocked tells whether attempts make sense now, and if not, from when on they
// may. A zero time with true means: until somebody resets the breaker. An
// endpoint that is disabled, or that nobody declares, is not blocked: its
// events become dead letters.
func (e *endpoint) blocked(now time.Time) (until time.Time, yes bool) {
	d := e.declared.Load()
	if d == nil || e.disabled.Load() {
		return time.Time{}, false
	}
	if state, opens := d.breaker.State(); state == breaker.Open {
		return opens, true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pausedUntil, e.pausedUntil.After(now)
}

// refuses tells why a call may make no request now, "" when it may. What the
// breaker and the limits say, their stages find out.
func (e *endpoint) refuses(now time.Time) dispatcher.Reason {
	switch {
	case e.disabled.Load():
		return dispatcher.ReasonDisabled
	case e.paused(now):
		return dispatcher.ReasonRateLimited
	}
	return ""
}

// troubled tells whether an event should go to the own lane instead of being
// tried now.
func (e *endpoint) troubled(now time.Time) bool {
	d := e.declared.Load()
	if d == nil || e.disabled.Load() {
		return false
	}
	if state, _ := d.breaker.State(); state != breaker.Closed {
		return true
	}
	if d.config.RateLimit > 0 && d.limiter.TokenDelay() > 0 {
		return true
	}
	return e.paused(now)
}

// paused tells whether the app has asked to be left alone for now.
func (e *endpoint) paused(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pausedUntil.After(now)
}
