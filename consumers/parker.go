package consumers

import (
	"context"
	"maps"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// How events are parked together. With sync always, LANES takes some 4,200
// messages a second one by one, and several times that in atomic batches,
// which cost one sync each and pay above about twenty.
const (
	parkBatch    = 256
	parkTogether = 20
)

// parker stores parked events, together when many come at once: what arrives
// while a batch is being stored makes up the next. A lone event waits for nothing.
type parker struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	queue chan parking
}

type parking struct {
	msg    *nats.Msg
	stored chan<- error
}

func newParker(js jetstream.JetStream) *parker {
	return &parker{nc: js.Conn(), js: js, queue: make(chan parking, parkBatch)}
}

// store stores one event's message in LANES and returns when the broker has it.
func (p *parker) store(ctx context.Context, msg *nats.Msg) error {
	stored := make(chan error, 1)
	select {
	case p.queue <- parking{msg, stored}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run stores until ctx ends.
func (p *parker) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-p.queue:
			p.storeAll(ctx, p.collect(first))
		}
	}
}

func (p *parker) collect(first parking) []parking {
	batch := []parking{first}
	for len(batch) < parkBatch {
		select {
		case next := <-p.queue:
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

func (p *parker) storeAll(ctx context.Context, batch []parking) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if len(batch) >= parkTogether {
		msgs := make([]*nats.Msg, len(batch))
		for i, b := range batch {
			msgs[i] = copyMsg(b.msg) // the batch's headers must not stay on it
		}
		if streams.PublishBatch(ctx, p.nc, msgs) == nil {
			for _, b := range batch {
				b.stored <- nil
			}
			return
		}
		// One message that is there already refuses the whole batch; stored
		// one by one, it is a duplicate and all is well.
	}
	var all sync.WaitGroup
	for _, b := range batch {
		all.Go(func() {
			_, err := p.js.PublishMsg(ctx, b.msg)
			b.stored <- err
		})
	}
	all.Wait()
}

func copyMsg(msg *nats.Msg) *nats.Msg {
	c := nats.NewMsg(msg.Subject)
	c.Data = msg.Data
	maps.Copy(c.Header, msg.Header)
	return c
}
