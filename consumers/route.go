package consumers

import (
	"context"
	"time"

	"backstop/streams"
)

// How long an event waits for a manifest that is stored and on its way here,
// and how often it looks. A manifest takes effect within a second.
const (
	routePatience = 5 * time.Second
	routeLook     = 20 * time.Millisecond
)

// unrouted handles an event for an endpoint that this process has not heard
// of. Its manifest may have been applied a moment ago, before the event was
// published, and still be on its way through the watch; so the bucket is asked
// before the event becomes a dead letter.
func (p *Pipeline) unrouted(d *delivery) {
	if e := p.find(d.event.EndpointID, time.Now().Add(routePatience)); e != nil {
		p.place(e, d)
		return
	}
	p.bury(d, streams.NoRoute, p.noRoute(d.event, false), 0)
}

// find returns the endpoint that a manifest declares, or nil when there is
// none. One that is stored and on its way here is waited for until the given
// time.
func (p *Pipeline) find(id streams.EndpointID, until time.Time) *endpoint {
	if e := p.fleet.declared(id); e != nil || !p.stored(id, until) {
		return e
	}
	for time.Now().Before(until) && p.work.Err() == nil {
		if e := p.fleet.declared(id); e != nil {
			return e
		}
		sleep(p.work, routeLook)
	}
	return nil
}

// stored tells whether the bucket has a manifest that declares the endpoint.
// One that doesn't say until then has none.
func (p *Pipeline) stored(id streams.EndpointID, until time.Time) bool {
	if !streams.ValidName(id.App) {
		return false
	}
	ctx, cancel := context.WithDeadline(p.work, until)
	defer cancel()
	m, _, err := p.cfg.Manifests.Get(ctx, id.App)
	if err != nil {
		return false
	}
	_, declared := m.Webhooks[id.Capability]
	return declared
}

// place gives the event to the endpoint's mailbox, or parks it; unlike a
// lane's offer it waits for no room, and may run on any goroutine.
func (p *Pipeline) place(e *endpoint, d *delivery) {
	if e.troubled(time.Now()) {
		e.box.divert(true)
	}
	switch e.box.put(d, false) {
	case started, queued:
	case queuedFirst:
		p.spiller.watch(e)
	default:
		p.park(e, d)
	}
}
