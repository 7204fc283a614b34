package consumers

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/streams"
	"backstop/streams/killpoint"
)

// lanePull is how long a pull on an own lane waits at the broker; after one
// that brought nothing, the lane is looked at and removed when it is empty.
const lanePull = time.Second

// ownLane works off the own lane of one endpoint in trouble: it pulls no more
// than the endpoint may have in flight, waits while the endpoint is blocked
// (with the durable paused, for operators to see), lets a half-open breaker
// have one event at a time, and removes the durable when the lane is empty.
type ownLane struct {
	p *Pipeline
	e *endpoint
	// paused is until when this process has paused the durable.
	paused time.Time
	// idle says that the lane was seen to be empty, so that there is nothing
	// yet to claim a half-open endpoint for.
	idle bool
	// failures is how often in a row the durable could not be made.
	failures int
	appetite appetite
	leftover leftover
}

// run works until the lane is empty or ctx ends. done reports, for an empty
// lane whose durable is gone, whether the runner may end; when events were
// parked in the meantime it may not.
func (l *ownLane) run(ctx context.Context, parked func() uint64, done func(uint64) bool) {
	defer join(&l.p.rations.own)()
	for ctx.Err() == nil {
		seen := parked()
		empty, err := l.work(ctx)
		switch {
		case errors.Is(err, errAgain):
		case errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrConsumerNotFound):
			// Another replica found the lane empty. If it still is, it goes for
			// good with the next look.
			sleep(ctx, pullRetry)
		case err != nil && ctx.Err() == nil:
			l.p.log.Warn("own lane: can't work, trying again", "endpoint", l.e.id.String(), "error", err)
			sleep(ctx, pullRetry)
		case empty && done(seen):
			return
		}
	}
}

// work makes the durable and pulls it until the lane is empty; then it removes
// the durable and returns true.
func (l *ownLane) work(ctx context.Context) (empty bool, err error) {
	until, blocked := l.e.blocked(time.Now())
	until = pauseEnd(until, blocked)
	killpoint.Here(killpoint.LaneMaking)
	cons, err := l.p.js.CreateOrUpdateConsumer(ctx, streams.LaneStream, l.e.id.LaneConfig(l.p.clock.theirs(until)))
	if err != nil {
		return false, l.mend(ctx, err)
	}
	l.failures = 0
	killpoint.Here(killpoint.LaneMade)
	l.paused = until
	if info := cons.CachedInfo(); info.Paused && !blocked { // updating a durable doesn't end its pause
		if err := l.pausedElsewhere(ctx, info.PauseRemaining); err != nil {
			return false, err
		}
	}
	for ctx.Err() == nil {
		wait, err := l.mayPull(ctx)
		if err != nil {
			return false, err
		}
		if wait > 0 {
			l.wait(ctx, wait)
			continue
		}
		pulled, err := pullOnce(ctx, cons, l.batch(), lanePull, l.receive)
		if errors.Is(err, nats.ErrNoResponders) {
			// Of JetStream, or of this durable alone? Only the first is trouble.
			if _, missing := cons.Info(ctx); errors.Is(missing, jetstream.ErrConsumerNotFound) {
				return false, missing
			}
		}
		if err != nil {
			return false, err
		}
		if pulled > 0 {
			l.idle = false
			continue
		}
		if empty, err := l.look(ctx, cons); empty || err != nil {
			return empty, err
		}
	}
	return false, nil
}

// foreverPause stands for "until somebody resets the breaker": a durable can
// only be paused until a time.
const foreverPause = 100 * 365 * 24 * time.Hour

func pauseEnd(until time.Time, blocked bool) time.Time {
	switch {
	case !blocked:
		return time.Time{}
	case until.IsZero():
		return time.Now().Add(foreverPause)
	}
	return until
}

// mayPull returns how long to wait before the next pull, 0 for not at all, and
// keeps the durable's pause in step with what blocks the endpoint.
func (l *ownLane) mayPull(ctx context.Context) (time.Duration, error) {
	now := time.Now()
	until, blocked := l.e.blocked(now)
	if blocked {
		if until.IsZero() && l.paused.After(now) {
			return time.Hour, nil // until the endpoint changes
		}
		end := pauseEnd(until, true)
		if !end.Equal(l.paused) {
			if _, err := l.p.js.PauseConsumer(ctx, streams.LaneStream, l.e.id.LaneConsumer(), l.p.clock.theirs(end)); err != nil {
				return 0, err
			}
			l.paused = end
		}
		return end.Sub(now), nil
	}
	if l.paused.After(now) { // a reset came before the pause was over
		if _, err := l.p.js.ResumeConsumer(ctx, streams.LaneStream, l.e.id.LaneConsumer()); err != nil {
			return 0, err
		}
	}
	l.paused = time.Time{}
	// What a disabled endpoint has here becomes dead letters, and probes nothing.
	if !l.idle && !l.e.disabled.Load() && !l.p.probes.claim(ctx, l.e) {
		return probeAgain, nil // another replica probes; what is pulled would only be put back
	}
	if l.e.box.free() <= 0 {
		return time.Hour, nil // until a run ends
	}
	if d := l.e.declared.Load(); d != nil {
		if !d.limiter.Room() {
			return saturatedAgain, nil
		}
		if d.config.RateLimit > 0 {
			return d.limiter.TokenDelay(), nil
		}
	}
	return 0, nil
}

// saturatedAgain is how long to wait while calls take all of an endpoint's
// concurrency: nobody tells this lane of their end. What is pulled meanwhile would
// be put back, and be a dead letter for having been handed out too often.
const saturatedAgain = 100 * time.Millisecond

// batch is how many events to pull now.
func (l *ownLane) batch() int {
	d := l.e.declared.Load()
	if d != nil {
		if state, _ := d.breaker.State(); state != breaker.Closed || d.config.RateLimit > 0 {
			return 1
		}
	}
	if l.p.rations.crowded() {
		return 1 // each goes on, and no faster than memory lasts
	}
	return l.appetite.atMost(min(l.e.box.free(), pullBatch), l.p.rations.ownPull())
}

// wait returns when the time is over, a run has ended, or the endpoint has changed.
func (l *ownLane) wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-l.e.box.freed:
	case <-l.e.changed:
	}
}

func (l *ownLane) receive(msg jetstream.Msg) {
	d, fresh, err := receive(msg, l.p.laneHolds, true)
	if err != nil {
		l.p.log.Error("own lane: a message that came from no stream was left alone", "subject", msg.Subject(), "error", err)
		return
	}
	if !fresh {
		return
	}
	l.appetite.seen(msg)
	if reason, why := inspect(d); reason != "" {
		l.p.aside(func() { l.p.bury(d, reason, why, 0) })
		return
	}
	if d.behind == 0 && !l.e.troubled(d.queued) {
		// Only retries are left here: new events may take the shared lane
		// again, and need not wait for a moment when nothing is in flight.
		l.e.box.divert(false)
	}
	if early := d.event.NotBefore.Sub(l.p.clock.now()); early > 0 {
		d.putBack(early)
		return
	}
	if !l.e.box.startNow(d) {
		d.putBack(0)
	}
}

// look lets new events through the shared lane again when only retries wait
// here, and removes the durable when nothing does.
func (l *ownLane) look(ctx context.Context, cons jetstream.Consumer) (empty bool, err error) {
	info, err := cons.Info(ctx)
	if err != nil {
		return false, err
	}
	if _, blocked := l.e.blocked(time.Now()); info.Paused && !blocked {
		if err := l.pausedElsewhere(ctx, info.PauseRemaining); err != nil {
			return false, err
		}
	}
	l.idle = info.NumPending == 0 && info.NumAckPending == 0
	if info.NumPending > 0 {
		return false, nil
	}
	if !l.e.troubled(time.Now()) {
		l.e.box.divert(false)
	}
	if info.NumAckPending > 0 {
		return false, nil
	}
	if l.e.box.isDiverted() {
		return false, l.again(ctx, cons, info)
	}
	killpoint.Here(killpoint.LaneEmpty)
	empty, err = l.removeEmpty(ctx, cons)
	killpoint.Here(killpoint.LaneRemoved)
	return empty, err
}

// pausedElsewhere deals with a pause that this process has no reason for. What is
// short is that of a replica which removes the lane. What an app may have asked
// for (429) holds here as well, and whether who was asked is still there or not.
// Longer is only one for an operator's breaker, by a replica that is gone.
func (l *ownLane) pausedElsewhere(ctx context.Context, rest time.Duration) error {
	switch {
	case rest <= 2*removalPause:
		return nil
	case rest <= dispatcher.MaxRetryAfter+removalPause:
		l.paused = time.Now().Add(rest)
		l.e.pause(l.paused)
		return nil
	}
	_, err := l.p.js.ResumeConsumer(ctx, streams.LaneStream, l.e.id.LaneConsumer())
	return err
}

// removalPause is how long a lane hands nothing out while it is being removed:
// ample for the few requests that takes, and not long for events that wait if
// whoever removes it dies in between.
const removalPause = 5 * time.Second

// removeEmpty removes the durable if nothing waits in the lane and nobody has
// anything of it in hand. It is paused first: between a look and a removal
// another replica parked and pulled an event, whose attempt was made once more
// by the durable that followed (long run, seed 1795613589).
func (l *ownLane) removeEmpty(ctx context.Context, cons jetstream.Consumer) (removed bool, err error) {
	name, until := l.e.id.LaneConsumer(), time.Now().Add(removalPause)
	if _, err := l.p.js.PauseConsumer(ctx, streams.LaneStream, name, l.p.clock.theirs(until)); err != nil {
		return gone(err)
	}
	info, err := cons.Info(ctx)
	for err == nil && !info.Paused && time.Now().Before(until) && ctx.Err() == nil {
		sleep(ctx, 10*time.Millisecond) // on three servers, until its leader knows
		info, err = cons.Info(ctx)
	}
	switch {
	case err != nil:
		return gone(err)
	case info.NumPending > 0 || info.NumAckPending > 0:
		_, err := l.p.js.ResumeConsumer(ctx, streams.LaneStream, name)
		return false, err
	}
	err = l.remove(ctx)
	return err == nil, err
}

// gone tells whether an error says that the durable has been removed already.
func gone(err error) (bool, error) {
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return true, nil
	}
	return false, err
}

// cannotMake is JetStream's code for a consumer that it fails to make or update.
const cannotMake = 10012

// mendAfter is how often in a row a durable can't be updated until it is
// removed. Once is what happens when another replica is just removing it; the
// next try makes a good one, and removing that would hand out again what
// somebody already has in hand.
const mendAfter = 3

// mend removes a durable that can't be updated. When one replica removes a lane
// while another makes it, the server (2.15.2) may keep a durable without its
// directory, which hands nothing out and fails every update until it is gone.
func (l *ownLane) mend(ctx context.Context, err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != cannotMake {
		return err
	}
	if l.failures++; l.failures < mendAfter {
		return err
	}
	l.failures = 0
	return errors.Join(err, l.remove(ctx))
}

func (l *ownLane) remove(ctx context.Context) error {
	_, err := gone(l.p.js.DeleteConsumer(ctx, streams.LaneStream, l.e.id.LaneConsumer()))
	return err
}
