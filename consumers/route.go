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
	id := d.event.EndpointID
	if p.stored(id) {
		for end := time.Now().Add(routePatience); time.Now().Before(end); sleep(p.work, routeLook) {
			if e := p.fleet.lookup(id); e != nil && e.declared.Load() != nil {
				p.place(e, d)
				return
			}
		}
	}
	p.bury(d, streams.NoRoute, p.noRoute(d.event, false), 0)
}

// stored tells whether the bucket has a manifest that declares the endpoint.
func (p *Pipeline) stored(id streams.EndpointID) bool {
	if !streams.ValidName(id.App) {
		return false
	}
	ctx, cancel := context.WithTimeout(p.work, routePatience)
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
