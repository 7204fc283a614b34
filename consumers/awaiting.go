package consumers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"backstop/dispatcher/callback"
	"backstop/streams"
	"backstop/streams/bucket"
	"backstop/streams/killpoint"
	"backstop/streams/manifest"
)

const (
	// awaitEvery is how often overdue callbacks are looked for.
	awaitEvery = time.Second
	// awaitTogether is how many are handled at once.
	awaitTogether = 32
	// maxRedeliveries is how often an event is delivered again for want of
	// its callback, if the manifest asks for it. Then there is the notice alone.
	maxRedeliveries = 3
	// keepReceived is how long the entry of a callback that came is kept: as
	// long as a delivery may be on its way that would demand it once more.
	keepReceived = callback.Validity
)

// delivered settles an event that the app took. When the app must call back,
// that is on record before the event is acknowledged.
func (p *Pipeline) delivered(d *delivery, policy manifest.CallbackPolicy) {
	if policy.Demanded() {
		due := p.clock.now().Add(policy.Within)
		stored := p.retryStore("a callback to wait for", d.event.EndpointID, func(ctx context.Context) error {
			return p.callbacks.Await(ctx, d.event, due, policy.Retry)
		})
		if !stored {
			d.abandon()
			return
		}
		killpoint.Here(killpoint.AwaitStored)
	}
	d.ack()
	killpoint.Here(killpoint.Acknowledged)
}

// awaiting looks for callbacks that are overdue. Each makes a notice, and when
// the manifest asks for it and it may help, the event goes into its endpoint's
// own lane for one more delivery. One replica runs it, under a lease.
//
// The event is parked before its entry is removed; parking it again after a
// crash in between is de-duplicated. The delivery makes a new entry, also in
// the place of one that was not removed. A callback that comes meanwhile
// changes the entry, which then stays.
type awaiting struct {
	p  *Pipeline
	mu sync.Mutex
	// due is when each entry is to be looked at. Only the watch writes it, in
	// the order of changes; what handle does comes back through the watch.
	due map[streams.CallbackKey]time.Time
}

// run looks until ctx ends.
func (a *awaiting) run(ctx context.Context) {
	a.due = make(map[streams.CallbackKey]time.Time) // another replica may have held the lease
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { _ = a.p.callbacks.Watch(ctx, a.p.log, a.note) })
	for ctx.Err() == nil {
		a.look(ctx, a.p.clock.now())
		sleep(ctx, awaitEvery)
	}
}

// note takes over what the bucket says of one entry; nil means that it is gone.
func (a *awaiting) note(key streams.CallbackKey, entry *streams.Awaited) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if entry == nil {
		delete(a.due, key)
	} else {
		a.due[key] = lookAt(*entry)
	}
}

// lookAt is when something has to be done about an entry.
func lookAt(entry streams.Awaited) time.Time {
	if entry.Received.IsZero() {
		return entry.Due
	}
	return entry.Received.Add(keepReceived)
}

// look handles every entry whose time is over, some side by side.
func (a *awaiting) look(ctx context.Context, now time.Time) {
	a.mu.Lock()
	var over []streams.CallbackKey
	for key, due := range a.due {
		if now.After(due) {
			over = append(over, key)
		}
	}
	a.mu.Unlock()
	var handling sync.WaitGroup
	defer handling.Wait()
	slots := make(chan struct{}, awaitTogether)
	for _, key := range over {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		handling.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, storeTimeout)
			defer cancel()
			if err := a.handle(ctx, key, now); err != nil && ctx.Err() == nil {
				id, _ := key.Split()
				a.p.log.Warn("can't handle an overdue callback, trying again", "endpoint", id.String(), "error", err)
			}
		})
	}
}

// handle does what has to be done about one entry whose time is over, if it
// still is. An error means that it has to be done again.
func (a *awaiting) handle(ctx context.Context, key streams.CallbackKey, now time.Time) error {
	entry, revision, err := a.p.callbacks.Get(ctx, key)
	if err != nil || revision == 0 || now.Before(lookAt(entry)) {
		return err // nil: the watch is behind, and will tell
	}
	missing := entry.Received.IsZero()
	again := missing && a.mayHelp(key, entry, now)
	if again {
		event := entry.Again(key)
		if err := a.p.layIn(ctx, event.EndpointID, event.LaneMsg()); err != nil {
			return err
		}
		killpoint.Here(killpoint.RedeliveryStored)
	}
	if missing {
		if err := a.tell(ctx, key, entry, again); err != nil {
			return err
		}
	}
	switch err := a.p.callbacks.Forget(ctx, key, revision); {
	case errors.Is(err, bucket.ErrConflict):
		return nil // the callback came at last, or the event was delivered again already
	case err != nil:
		return err
	}
	return nil
}

// mayHelp tells whether the event should be delivered again: the manifest asks
// for it, it was not done too often, and the event would reach the app.
func (a *awaiting) mayHelp(key streams.CallbackKey, entry streams.Awaited, now time.Time) bool {
	id, _ := key.Split()
	e := a.p.fleet.lookup(id)
	if !entry.Retry || entry.Redeliveries >= maxRedeliveries || e == nil || e.disabled.Load() {
		return false
	}
	declared := e.declared.Load()
	return declared != nil && now.Sub(entry.PublishedAt) < declared.config.MaxAge
}

// tell makes the notice before the entry is removed: whoever does it again after
// a crash makes the same, which NOTICES takes once.
func (a *awaiting) tell(ctx context.Context, key streams.CallbackKey, entry streams.Awaited, again bool) error {
	id, _ := key.Split()
	what := "it is not delivered again"
	if again {
		what = "it is delivered again"
	}
	return a.p.notices.addStored(ctx, noticeKey{kind: streams.NoticeCallbackMissing, id: id},
		fmt.Sprintf("%s did not call back in time after event %s; %s", id, entry.ID, what),
		map[string]any{"id": entry.ID, "due": entry.Due, "redelivered": again, "redeliveries": entry.Redeliveries},
		fmt.Sprintf("%s.%s.%d", streams.NoticeCallbackMissing, key, entry.Redeliveries))
}
