package consumers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// What one shared lane holds and asks for at once.
const (
	// laneRoom is the most events of one capability that this process holds,
	// in flight and in mailboxes. An endpoint that hangs holds a window's
	// worth (it shrinks) and a second's worth of mailbox, so that it takes
	// very many of those to fill a lane.
	laneRoom = 16_384
	// pullBatch is the most that one pull asks for.
	pullBatch = 512
	// pullExpiry is how long an unanswered pull waits at the broker.
	pullExpiry = 5 * time.Second
	// pullRetry is the wait after a pull that failed, as while NATS is away.
	pullRetry = 250 * time.Millisecond
)

// lane is the shared lane of one capability: it pulls the durable "webhooks"
// and hands each event to its endpoint's mailbox. What a mailbox doesn't take
// is parked. The pull waits for no endpoint that doesn't move, and for one that
// does only as long as courtesy to the others allows.
//
// It pulls batch by batch and not through an iterator that reads ahead: what
// is read ahead is held by nobody, isn't marked as in progress, and would be
// handed out over and over while the lane holds back.
type lane struct {
	p          *Pipeline
	capability string
	holds      *holds
	courtesy   courtesy
	appetite   appetite
}

// run pulls until ctx ends.
func (l *lane) run(ctx context.Context) {
	defer join(&l.p.rations.shared)()
	for ctx.Err() == nil {
		if err := l.pull(ctx); err != nil && ctx.Err() == nil {
			l.p.log.Warn("shared lane: can't pull, trying again", "capability", l.capability, "error", err)
			sleep(ctx, pullRetry)
		}
	}
}

func (l *lane) pull(ctx context.Context) error {
	cons, err := l.p.js.Consumer(ctx, streams.EventStream(l.capability), streams.EventConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		// Somebody deleted it; a durable that is made anew starts at the
		// stream's beginning, where only what is not trimmed yet is repeated.
		switch isRetired := l.p.capabilities.state(l.capability) == retired; {
		case isRetired && errors.Is(err, jetstream.ErrStreamNotFound):
			sleep(ctx, pullExpiry) // until an app declares it again
			return nil
		case isRetired:
			return l.p.cfg.Topology.EnsureEventConsumer(ctx, l.capability)
		}
		return l.p.cfg.Topology.EnsureCapability(ctx, l.capability)
	}
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		count, size := l.holds.held()
		room, bytes := laneRoom-count, l.p.rations.room(size)
		if room <= 0 || bytes <= 0 {
			l.awaitRoom(ctx)
			continue
		}
		n := l.appetite.atMost(min(room, pullBatch), min(bytes, l.p.rations.sharedPull()))
		if _, err := pullOnce(ctx, cons, n, pullExpiry, l.receive); err != nil {
			return err
		}
	}
	return nil
}

// awaitRoom waits until something of this lane was released, or for a moment, as
// it may be others that hold so much.
func (l *lane) awaitRoom(ctx context.Context) {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-l.holds.freed:
	case <-t.C:
	}
}

// pullOnce asks for up to n messages, passes on what comes within the expiry,
// and reports how many that were. Nothing to do is no error.
func pullOnce(ctx context.Context, cons jetstream.Consumer, n int, expiry time.Duration, receive func(jetstream.Msg)) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, expiry)
	defer cancel()
	batch, err := cons.Fetch(n, jetstream.FetchContext(ctx)) // without FetchMaxBytes: see appetite
	if err != nil {
		return 0, quiet(err)
	}
	count := 0
	for msg := range batch.Messages() {
		receive(msg)
		count++
	}
	return count, quiet(batch.Error())
}

// quiet drops the errors that only say that there was nothing to do.
func quiet(err error) error {
	if errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, jetstream.ErrNoMessages) {
		return nil
	}
	return err
}

// receive decides where an event goes. It runs on the pulling goroutine; what
// waits for the network is done aside.
func (l *lane) receive(msg jetstream.Msg) {
	d, fresh, err := receive(msg, l.holds, false)
	if err != nil {
		l.p.log.Error("shared lane: a message that came from no stream was left alone", "subject", msg.Subject(), "error", err)
		return
	}
	if !fresh {
		return
	}
	l.appetite.seen(msg)
	l.courtesy.seen(d.event.EndpointID, d.queued)
	p := l.p
	switch reason, why := inspect(d); {
	case reason != "":
		p.aside(func() { p.bury(d, reason, why, 0) })
	case d.event.App == "":
		p.aside(func() { p.fanOut(d) })
	default:
		if e := p.fleet.lookup(d.event.EndpointID); e != nil {
			l.offer(e, d)
			return
		}
		p.aside(func() { p.unrouted(d) })
	}
}

// offer gives the event to the endpoint's mailbox, or parks it when the
// endpoint is in trouble.
func (l *lane) offer(e *endpoint, d *delivery) {
	if e.troubled(d.queued) {
		e.box.divert(true)
	}
	for {
		switch e.box.put(d, l.courtesy.mayWait(e)) {
		case started, queued:
			return
		case queuedFirst:
			l.p.spiller.watch(e)
			return
		case moving:
			l.await(e)
		default:
			l.p.aside(func() { l.p.park(e, d) })
			return
		}
	}
}

// await holds the pull up until a mailbox that moves has room.
func (l *lane) await(e *endpoint) {
	began := time.Now()
	t := time.NewTimer(mailboxPatience / 4) // it may have stopped moving
	defer t.Stop()
	select {
	case <-e.box.room:
	case <-t.C:
	case <-l.p.stopping:
	}
	l.courtesy.waited(e, time.Since(began))
}

// inspect tells whether the event can be processed at all, and if not, why.
func inspect(d *delivery) (streams.DeadLetterReason, string) {
	if d.stray != nil {
		return streams.NoRoute, d.stray.Error()
	}
	if d.crashLooped() {
		return streams.CrashLoop, fmt.Sprintf("handed out %d times without being settled", d.handed-1)
	}
	if err := streams.CheckPayload(d.event.Payload); err != nil {
		return streams.BadPayload, err.Error()
	}
	return "", ""
}

// sleep waits, or returns early when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
