package consumers

import (
	"context"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// parkBatch is how many events are parked together at most. With sync always,
// LANES takes some 4,200 messages a second one by one, and several times that
// in atomic batches, which cost one sync each.
const parkBatch = 256

// parker stores parked events, together when many come at once: what arrives
// while a batch is being stored makes up the next. A lone event waits for nothing.
type parker struct {
	js    jetstream.JetStream
	queue chan parking
}

type parking struct {
	msg    *nats.Msg
	stored chan<- error
}

func newParker(js jetstream.JetStream) *parker {
	return &parker{js: js, queue: make(chan parking, parkBatch)}
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
	msgs := make([]*nats.Msg, len(batch))
	for i, b := range batch {
		msgs[i] = b.msg
	}
	streams.StoreEach(ctx, p.js, msgs, func(i int, _ *jetstream.PubAck, err error) { batch[i].stored <- err })
}
