package consumers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"backstop/streams"
	"backstop/streams/killpoint"
)

// park moves an event to the endpoint's own lane: it is stored there, and then
// acknowledged where it came from. A crash in between makes at most a
// duplicate, which the lane's de-duplication absorbs. What can't be stored there,
// ever, becomes a dead letter.
//
// When LANES has no room, nothing waits for it in its endpoint's window: an app
// that worked again would never be asked, and LANES would stay full. An event
// that is in its own lane already goes back into it, and one of a shared lane
// waits aside.
func (p *Pipeline) park(e *endpoint, d *delivery) {
	p.lanes.want(e)
	msg, full := d.event.LaneMsg(), false
	store := func(ctx context.Context) error { return p.parker.store(ctx, msg) }
	err := p.tryStore("an event in its lane", e.id, func(ctx context.Context) error {
		err := store(ctx)
		if full = streams.LacksRoom(err); full {
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		p.unparked(d, err)
	case !full:
		p.parked(d)
	case !d.own:
		p.aside(func() {
			if err := p.tryStore("an event in its lane, which has no room", e.id, store); err != nil {
				p.unparked(d, err)
				return
			}
			p.parked(d)
		})
	case d.handed >= streams.CrashLoopLane:
		p.bury(d, streams.Exhausted, fmt.Sprintf("LANES has no room to try it later, and it was handed out %d times", d.handed), 0)
	default:
		d.putBack(max(d.event.NotBefore.Sub(p.clock.now()), time.Second))
	}
}

// unparked does what has to be done about an event that could not be stored in
// its lane before the process must stop, or ever.
func (p *Pipeline) unparked(d *delivery, err error) {
	if streams.NeverFits(err) {
		p.bury(d, streams.BadPayload, "it can't be kept for later: "+err.Error(), 0)
		return
	}
	d.abandon()
}

// parked acknowledges an event that is stored in its lane.
func (p *Pipeline) parked(d *delivery) {
	killpoint.Here(killpoint.LaneStored)
	p.ackMoved(d)
}

// ackMoved acknowledges an event whose successor is stored.
func (p *Pipeline) ackMoved(d *delivery) {
	if !d.own {
		// Acks on a shared lane roll back when the server is killed, waited
		// for or not; the successor's de-duplication covers that.
		d.ack()
		return
	}
	ctx, cancel := context.WithTimeout(p.work, storeTimeout)
	defer cancel()
	if err := d.ackSync(ctx); err != nil && !errors.Is(err, context.Canceled) {
		p.log.Warn("an event was moved, but its old place could not be acknowledged; it may be attempted once more", "endpoint", d.event.EndpointID.String(), "error", err)
	}
}

// bury makes the event a dead letter, and then acknowledges it.
func (p *Pipeline) bury(d *delivery, reason streams.DeadLetterReason, why string, status int) {
	letter := streams.DeadLetter{Event: d.event, Reason: reason, Err: why, Status: status, FailedAt: time.Now()}
	if killpoint.Broken(killpoint.AckBeforeStore) {
		_ = d.msg.DoubleAck(p.work)
		killpoint.Here(killpoint.LetterStored)
	}
	if killpoint.Broken(killpoint.Unstable) {
		letter.Payload = append([]byte(" "), letter.Payload...)
	}
	stored := p.retryStore("a dead letter", d.event.EndpointID, func(ctx context.Context) error {
		return p.letters.Store(ctx, letter)
	})
	if !stored {
		d.abandon()
		return
	}
	killpoint.Here(killpoint.LetterStored)
	p.ackMoved(d)
	named := p.fleet.named(d.event.EndpointID)
	p.observe.DeadLetter(named, reason)
	// A publisher may invent names as fast as it likes: those that no manifest
	// declares are noticed together, the last one in words.
	p.notices.add(streams.NoticeDeadLettered, named, "events of "+d.event.EndpointID.String()+" were dead-lettered ("+string(reason)+")",
		map[string]any{"reason": reason, "error": why, "id": d.event.ID})
}
