package consumers

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// delivery is one event in the hands of this process, from the broker handing
// it out to its settlement.
type delivery struct {
	event streams.Event
	msg   jetstream.Msg
	seq   uint64
	holds *holds
	own   bool // from the endpoint's own lane, not from a shared one
	// handed is how often the broker has handed the message out, this time
	// included. It guards against crash loops and counts no attempts.
	handed uint64
	// behind is how many messages of the same consumer the broker has not
	// handed out once, after this one.
	behind uint64
	queued time.Time
	// stray says why the message is no event, if it is none.
	stray error
}

// receive takes charge of a message that a consumer was handed. False means
// that it is in hand already. The error says that it came from no stream.
func receive(msg jetstream.Msg, h *holds, own bool) (*delivery, bool, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, false, err
	}
	if !h.add(meta.Sequence.Stream, msg) {
		return nil, false, nil
	}
	event, stray := streams.Decode(msg)
	return &delivery{
		event: event, msg: msg, seq: meta.Sequence.Stream, holds: h, own: own,
		handed: meta.NumDelivered, behind: meta.NumPending, queued: time.Now(), stray: stray,
	}, true, nil
}

// ack settles the delivery: whatever becomes of the event is stored elsewhere.
// A lost ack is harmless: the event comes back, and what was stored for it is
// de-duplicated; a delivered one is delivered again, as at-least-once allows.
func (d *delivery) ack() {
	_ = d.msg.Ack()
	d.holds.release(d.seq)
}

// One question for an ack's answer goes down with the leader that it was asked
// of; the next one, asked of the new leader, doesn't.
const (
	ackTry   = 2 * time.Second
	ackPause = 100 * time.Millisecond
)

// ackSync settles the delivery and waits until the broker knows, asking again
// until ctx ends. It is held meanwhile, and so marked as in progress, and not
// attempted again.
func (d *delivery) ackSync(ctx context.Context) error {
	defer d.holds.release(d.seq)
	for {
		try, cancel := context.WithTimeout(ctx, ackTry)
		err := d.msg.DoubleAck(try)
		cancel()
		switch {
		case err == nil || errors.Is(err, jetstream.ErrMsgAlreadyAckd):
			return nil
		case ctx.Err() != nil:
			return err
		}
		sleep(ctx, ackPause)
	}
}

// putBack returns the event to the broker, to be handed out again after the
// wait (at once when zero). It spends a delivery, but no attempt.
func (d *delivery) putBack(wait time.Duration) {
	_ = d.msg.NakWithDelay(wait)
	d.holds.release(d.seq)
}

// abandon gives the delivery up unsettled: the broker hands it out again when
// the ack wait is over.
func (d *delivery) abandon() { d.holds.release(d.seq) }

// crashLooped tells whether the event has been handed out so often without
// being settled that it must be what kills its workers.
func (d *delivery) crashLooped() bool {
	if d.own {
		return d.handed > streams.CrashLoopLane
	}
	return d.handed > streams.CrashLoopEvents
}
