package consumers

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// answered is a message whose acks are answered as the test says.
type answered struct {
	jetstream.Msg
	acks func(ctx context.Context) error
}

func (a answered) Data() []byte                        { return nil }
func (a answered) DoubleAck(ctx context.Context) error { return a.acks(ctx) }

// TestAckOfWhatWasMoved: the answer to an ack goes down with the broker's
// leader. The event is held until there is one, as it would be attempted again
// although its successor waits already; but not for ever.
func TestAckOfWhatWasMoved(t *testing.T) {
	lost := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	away := func(context.Context) error { return nats.ErrNoResponders }
	done := func(context.Context) error { return nil }
	for _, c := range []struct {
		why     string
		answers []func(context.Context) error // the last one stands for all that follow
		gives   bool
		within  time.Duration
	}{
		{"at once", []func(context.Context) error{done}, true, 0},
		{"the first was lost", []func(context.Context) error{lost, away, away, done}, true, 3 * time.Second},
		{"it was acknowledged before", []func(context.Context) error{lost, func(context.Context) error { return jetstream.ErrMsgAlreadyAckd }}, true, 3 * time.Second},
		{"no leader for too long", []func(context.Context) error{lost}, false, storeTimeout},
		{"no durable any more", []func(context.Context) error{away}, false, storeTimeout},
	} {
		t.Run(c.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, asked := newHolds(new(atomic.Int64)), 0
				msg := answered{acks: func(ctx context.Context) error {
					if count, _ := h.held(); count != 1 {
						t.Error("the event is not held any more")
					}
					answer := c.answers[min(asked, len(c.answers)-1)]
					asked++
					return answer(ctx)
				}}
				h.add(1, msg)
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), storeTimeout)
				defer cancel()
				err := (&delivery{msg: msg, seq: 1, holds: h, own: true}).ackSync(ctx)
				if (err == nil) != c.gives || err != nil && !errors.Is(err, nats.ErrNoResponders) && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(began); took > c.within {
					t.Errorf("it took %v, want %v at most", took, c.within)
				}
				if count, _ := h.held(); count != 0 || c.gives && asked != len(c.answers) {
					t.Errorf("%d held, after %d acks", count, asked)
				}
			})
		})
	}
}
