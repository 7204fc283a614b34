package streams

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// batchBytes bounds the payloads of one batch, which the broker holds in
// memory until it is whole. A sync to disk costs next to nothing beside it.
const batchBytes = 8 << 20

// Outgoing is one event that a service is about to publish with PublishAll.
type Outgoing struct {
	// To is for whom. An empty app means every app that declares the
	// capability as async.
	To EndpointID
	// ID is what the app will see as X-Request-ID. Empty makes one.
	ID string
	// Payload is JSON, at most MaxPayload.
	Payload []byte
	// TraceParent and TraceState are the W3C trace context, if there is one.
	TraceParent, TraceState string
}

// Published is what became of one event of PublishAll.
type Published struct {
	// Receipt is the broker's word that it is stored. With an error it holds
	// the id alone, and nothing if the event can't be one.
	Receipt Receipt
	// Err is nil when the event is stored, and otherwise as from Publish.
	Err error
}

// PublishAll stores many events, with one sync to disk for up to MaxBatch of
// one capability, which is several times as fast as one after another. It
// returns what became of each, in the order of the events, and an error when
// any of them was not acknowledged. They are independent of each other: one
// that is refused, or was stored before, keeps none of the others back.
//
// All are checked before the first is sent. An event that could only become a
// dead letter (its payload is larger than MaxPayload) is refused with
// ErrTooLarge and not sent, as is one whose names or id can't be. To publish
// all again after ErrUnavailable is safe when each has an id of its own.
//
// ctx bounds the whole; each batch has 15 s at most.
func (p *Publisher) PublishAll(ctx context.Context, events []Outgoing) ([]Published, error) {
	results := make([]Published, len(events))
	byCapability := map[string][]draft{} // each of which has a stream of its own
	for i, e := range events {
		msg, err := e.msg()
		if err != nil {
			results[i].Err = err
			continue
		}
		byCapability[e.To.Capability] = append(byCapability[e.To.Capability], draft{i, msg})
	}
	var all sync.WaitGroup
	for _, drafts := range byCapability {
		all.Go(func() {
			for len(drafts) > 0 {
				n := batchLength(drafts)
				p.publishTogether(ctx, events, drafts[:n], results)
				drafts = drafts[n:]
			}
		})
	}
	all.Wait()
	return results, summary(results)
}

// draft is the message of the event at an index.
type draft struct {
	index int
	msg   *nats.Msg
}

func (e Outgoing) msg() (*nats.Msg, error) {
	msg, err := EventMsg(e.To, e.ID, e.Payload, WithTrace(e.TraceParent, e.TraceState))
	if err == nil && len(e.Payload) > MaxPayload {
		err = fmt.Errorf("publish %s: %w: %d bytes, at most %d KiB of JSON", e.To, ErrTooLarge, len(e.Payload), MaxPayload>>10)
	}
	return msg, err
}

// batchLength returns how many of the drafts, and at least one, make the next batch.
func batchLength(drafts []draft) int {
	bytes := 0
	for i, d := range drafts {
		bytes += len(d.msg.Data)
		if i == MaxBatch || i > 0 && bytes > batchBytes {
			return i
		}
	}
	return len(drafts)
}

func (p *Publisher) publishTogether(ctx context.Context, events []Outgoing, drafts []draft, results []Published) {
	ctx, cancel := context.WithTimeout(ctx, publishBudget)
	defer cancel()
	msgs := make([]*nats.Msg, len(drafts))
	for i, d := range drafts {
		msgs[i] = d.msg
	}
	StoreEach(ctx, p.js, msgs, func(i int, ack *jetstream.PubAck, err error) {
		result := &results[drafts[i].index]
		result.Receipt, result.Err = receipt(msgs[i], events[drafts[i].index].To, ack, err)
	})
}

// summary returns nil when every event was acknowledged, and otherwise how
// many weren't, with the first one's error. An error that is no reason to
// publish again gives way to ErrUnavailable, which is.
func summary(results []Published) error {
	var first error
	failed := 0
	for _, r := range results {
		if r.Err == nil {
			continue
		}
		failed++
		if first == nil || errors.Is(r.Err, ErrUnavailable) && !errors.Is(first, ErrUnavailable) {
			first = r.Err
		}
	}
	if first == nil {
		return nil
	}
	return fmt.Errorf("%d of %d events were not acknowledged, one of them: %w", failed, len(results), first)
}
