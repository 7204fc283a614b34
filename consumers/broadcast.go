package consumers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/killpoint"
)

// fanOut turns a broadcast into one event for each app that takes the
// capability's events, and acknowledges it when all copies are stored. Each
// copy has its own retries and dead letter from then on. Fanning out again
// after a crash adds nothing: the copies are de-duplicated.
func (p *Pipeline) fanOut(d *delivery) {
	apps := p.fleet.takers(d.event.Capability)
	// The first manifest to take them may be on its way here.
	for began := time.Now(); len(apps) == 0 && time.Since(began) < routePatience; apps = p.fleet.takers(d.event.Capability) {
		if sleep(p.work, routeLook); p.work.Err() != nil {
			d.abandon()
			return
		}
	}
	if len(apps) == 0 {
		p.bury(d, streams.NoRoute, p.noRoute(d.event, false), 0)
		return
	}
	// What is stored is not stored again by a retry, which may outlast the window
	// of de-duplication, or find a copy that went to LANES to be new in EVENTS.
	done := make([]bool, len(apps))
	stored := p.retryStore("the copies of a broadcast", d.event.EndpointID, func(ctx context.Context) error {
		return p.copyTo(ctx, d.event, apps, done)
	})
	if !stored {
		d.abandon()
		return
	}
	killpoint.Here(killpoint.CopiesStored)
	p.ackMoved(d)
}

// copyTo stores the copies that are not done side by side, waits for all of
// them, and notes which are.
func (p *Pipeline) copyTo(ctx context.Context, e streams.Event, apps []string, done []bool) error {
	errs := make([]error, len(apps))
	var pending sync.WaitGroup
	// Enough at once to keep the disk busy, few enough not to flood it.
	slots := make(chan struct{}, 64)
	for i, app := range apps {
		if done[i] {
			continue
		}
		slots <- struct{}{}
		pending.Go(func() {
			defer func() { <-slots }()
			errs[i] = p.copyFor(ctx, e, app)
			done[i] = errs[i] == nil
			killpoint.Here(killpoint.CopyStored)
		})
	}
	pending.Wait()
	return errors.Join(errs...)
}

// copyFor stores one app's copy.
func (p *Pipeline) copyFor(ctx context.Context, e streams.Event, app string) error {
	_, err := p.js.PublishMsg(ctx, e.CopyMsg(app))
	if !p.takesNone(ctx, e.Capability, err) {
		return err
	}
	// The capability's stream may be full of broadcasts that can't be
	// acknowledged before their copies are stored. LANES has room of its own.
	e.App = app
	p.lanes.want(p.fleet.get(e.EndpointID))
	_, err = p.js.PublishMsg(ctx, e.LaneMsg())
	return err
}

// takesNone tells, by a publish's error, whether the capability's stream has
// reached its limit, or takes no events any more. That nobody has answered is
// not enough: it is so while three servers elect a leader, too.
func (p *Pipeline) takesNone(ctx context.Context, capability string, err error) bool {
	switch {
	case streams.StreamFull(err):
		return true
	case errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse):
		open, err := p.cfg.Topology.Open(ctx, capability)
		return err == nil && !open
	}
	return false
}
