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
	stored := p.retryStore("the copies of a broadcast", d.event.EndpointID, func(ctx context.Context) error {
		return p.copyTo(ctx, d.event, apps)
	})
	if !stored {
		d.abandon()
		return
	}
	killpoint.Here(killpoint.CopiesStored)
	p.ackMoved(d)
}

// copyTo stores the copies side by side and waits for all of them.
func (p *Pipeline) copyTo(ctx context.Context, e streams.Event, apps []string) error {
	errs := make([]error, len(apps))
	var pending sync.WaitGroup
	// Enough at once to keep the disk busy, few enough not to flood it.
	slots := make(chan struct{}, 64)
	for i, app := range apps {
		slots <- struct{}{}
		pending.Go(func() {
			defer func() { <-slots }()
			_, err := p.js.PublishMsg(ctx, e.CopyMsg(app))
			if full(err) {
				// The capability's stream may be full of broadcasts that
				// can't be acknowledged before their copies are stored.
				// LANES has room of its own.
				to := e
				to.App = app
				endpoint := p.fleet.get(to.EndpointID)
				p.lanes.want(endpoint)
				_, err = p.js.PublishMsg(ctx, to.LaneMsg())
			}
			killpoint.Here(killpoint.CopyStored)
			errs[i] = err
		})
	}
	pending.Wait()
	return errors.Join(errs...)
}

// full tells whether a publish failed because the stream has reached its
// limit, or takes no events any more.
func full(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.As(err, &api) && api.ErrorCode == 10077
}
