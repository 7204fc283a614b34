package consumers

import (
	"context"
	"errors"
	"time"

	"backstop/streams"
	"backstop/streams/manifest"
)

// How long an event waits for a manifest that is stored and on its way here,
// and how often it looks. A manifest takes effect within a second.
const (
	routePatience = 5 * time.Second
	routeLook     = 20 * time.Millisecond
)

// unrouted handles an event for an endpoint that this process has not heard of.
func (p *Pipeline) unrouted(d *delivery) {
	if p.route(d) != nil {
		p.place(p.fleet.get(d.event.EndpointID), d)
	}
}

// route returns the declaration by which the event's endpoint takes it. The
// manifest may have been applied a moment ago, before the event was published,
// and still be on its way through the watch; so the bucket is asked, until it
// answers. When there is none, the event is a dead letter; nil also stands for a
// process that must stop before anybody could say, and has given the event up.
func (p *Pipeline) route(d *delivery) *declaration {
	id := d.event.EndpointID
	here := func() *declaration {
		if e := p.fleet.lookup(id); e != nil {
			return e.takes(d.own)
		}
		return nil
	}
	for {
		ctx, cancel := context.WithTimeout(p.work, routePatience)
		config, err := p.stored(ctx, id)
		none := err == nil && (config == nil || !config.Async && !d.own)
		for !none && here() == nil && ctx.Err() == nil {
			sleep(ctx, routeLook)
		}
		cancel()
		switch declared := here(); {
		case p.work.Err() != nil:
			d.abandon()
			return nil
		case declared != nil: // a manifest that was removed a moment ago may be here still
			return declared
		case none:
			p.bury(d, streams.NoRoute, p.noRoute(d.event, p.fleet.declared(id) != nil), 0)
			return nil
		}
	}
}

// find returns the endpoint that a manifest declares, or nil when there is
// none, or the bucket doesn't say. One that is stored and on its way here is
// waited for until the given time.
func (p *Pipeline) find(id streams.EndpointID, until time.Time) *endpoint {
	if e := p.fleet.declared(id); e != nil {
		return e
	}
	ctx, cancel := context.WithDeadline(p.work, until)
	defer cancel()
	if config, err := p.stored(ctx, id); err != nil || config == nil {
		return nil
	}
	for ctx.Err() == nil {
		if e := p.fleet.declared(id); e != nil {
			return e
		}
		sleep(ctx, routeLook)
	}
	return nil
}

// stored returns the endpoint as the bucket's manifest declares it, nil when
// none does. An error means that the bucket couldn't be asked.
func (p *Pipeline) stored(ctx context.Context, id streams.EndpointID) (*manifest.Endpoint, error) {
	if !streams.ValidName(id.App) {
		return nil, nil
	}
	m, _, err := p.cfg.Manifests.Get(ctx, id.App)
	var unreadable manifest.Problems
	switch {
	case errors.Is(err, manifest.ErrNotFound), errors.As(err, &unreadable):
		return nil, nil
	case err != nil:
		return nil, err
	}
	for _, config := range m.Endpoints(p.cfg.Defaults) {
		if config.EndpointID == id {
			return &config, nil
		}
	}
	return nil, nil
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
