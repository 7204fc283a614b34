package bucket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// probeEvery is how often a watch compares what it has seen with what the
	// bucket holds, which bounds its deafness after a reconnect. It costs 0.14%
	// of a core, server included, whether the bucket has 10 keys or 10,000.
	probeEvery = time.Second
	// confirmAfter is how long a change that the bucket holds may be on its
	// way before the watch counts as deaf.
	confirmAfter = 250 * time.Millisecond
	// answerWithin is how long one request to JetStream may take, however much
	// time its context has: a request that a dying server took is never
	// answered, while the next one would be.
	answerWithin = 5 * time.Second
	// minPause and maxPause bound the wait before a watch is started again.
	minPause = 100 * time.Millisecond
	maxPause = 5 * time.Second
)

// Change is one thing that Watch tells.
type Change struct {
	// Key is what changed. Empty when Loaded.
	Key string
	// Value is the key's new value. Nil when it was removed.
	Value []byte
	// Revision is the bucket's revision of the change; 0 for a removal that
	// was only noticed by a reload.
	Revision uint64
	// Removed says that the key is gone, or that there is none: its value may
	// have been removed before it was told.
	Removed bool
	// Loaded says that everything which was there when the watch began has
	// been told. It comes once, on its own.
	Loaded bool
}

// Watch tells fn every key of the bucket, then Loaded, then each change, one
// call at a time. It blocks until ctx ends, which it reports as nil, and
// returns an error only when the connection was closed for good.
//
// The watcher of the client library is restarted with a full reload, of which
// fn is told just the differences (removals included), whenever it has fallen
// silent: its consumer lives in the server's memory and dies with the server;
// it would be missed after 10 s, but a bucket that was deleted and made anew in
// that time is never noticed, as the library resumes at a sequence that lies
// in the new bucket's future. So once a second Watch asks the bucket how far it
// is, and reloads when that is further than what arrived.
func Watch(ctx context.Context, kv jetstream.KeyValue, log *slog.Logger, fn func(Change)) error {
	f := follower{kv: kv, fn: fn, known: make(map[string]version)}
	pause := minPause
	for {
		began := time.Now()
		why := f.follow(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it ended because it was told to
		}
		if errors.Is(why, nats.ErrConnectionClosed) {
			return fmt.Errorf("watch bucket %s: %w", kv.Bucket(), why)
		}
		if time.Since(began) > maxPause {
			pause = minPause
		}
		log.Warn("watching a bucket again from the start", "bucket", kv.Bucket(), "in", pause, "because", why)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// version tells two values of a key apart, also across a bucket that was
// deleted and made anew, where revisions start again from 1.
type version struct {
	revision uint64
	created  time.Time
}

// follower is the state of a Watch that outlives one watcher of the library.
type follower struct {
	kv      jetstream.KeyValue
	fn      func(Change)
	filters []string           // keys to follow; none means all
	known   map[string]version // what fn was told is there
	loaded  bool               // fn was told Loaded
}

var (
	errStalled   = errors.New("changes don't arrive")
	errRecreated = errors.New("the bucket was deleted and made anew")
	errClosed    = errors.New("the subscription was closed")
)

// follow is the life of one watcher of the library; the error says why it ended.
func (f *follower) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := f.ask(ctx)
	if start.err != nil {
		return start.err
	}
	w, err := f.open(ctx, cancel)
	if err != nil {
		return err
	}
	var asking sync.WaitGroup
	defer func() {
		cancel() // ends the subscription and the question
		drain(w)
		asking.Wait()
	}()
	answers := make(chan position, 1)
	tick := time.NewTimer(probeEvery)
	defer tick.Stop()

	l := load{present: make(map[string]bool)}
	var watch vigil
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, ok := <-w.Updates():
			switch {
			case !ok:
				return errClosed
			case entry == nil:
				f.finish(&l)
				// What the bucket held before this watcher and did not
				// deliver was superseded: count it as seen.
				watch.seen = max(watch.seen, start.last)
			default:
				watch.seen = max(watch.seen, entry.Revision())
				f.tell(entry, &l)
			}
		case <-tick.C:
			asking.Go(func() { answers <- f.ask(ctx) })
		case a := <-answers:
			next, err := watch.judge(start, a, len(w.Updates()) > 0)
			if err != nil {
				return err
			}
			tick.Reset(next)
		}
	}
}

// load is what one watcher has delivered of the first, whole state.
type load struct {
	done    bool
	present map[string]bool
}

// tell passes an entry on unless fn knows it already.
func (f *follower) tell(entry jetstream.KeyValueEntry, l *load) {
	key := entry.Key()
	_, known := f.known[key]
	if entry.Operation() != jetstream.KeyValuePut {
		delete(l.present, key)
		// Of a value that is soon removed the bucket may never tell: it keeps
		// the last word only. That it is gone is told all the same, for those
		// who know of it by other means.
		if known || l.done {
			delete(f.known, key)
			f.fn(Change{Key: key, Revision: entry.Revision(), Removed: true})
		}
		return
	}
	if !l.done {
		l.present[key] = true
	}
	v := version{entry.Revision(), entry.Created()}
	if known && f.known[key] == v {
		return
	}
	f.known[key] = v
	f.fn(Change{Key: key, Value: entry.Value(), Revision: entry.Revision()})
}

// finish ends the loading: what is known and was not delivered is gone.
func (f *follower) finish(l *load) {
	for key := range f.known {
		if !l.present[key] {
			delete(f.known, key)
			f.fn(Change{Key: key, Removed: true})
		}
	}
	l.done, l.present = true, nil
	if !f.loaded {
		f.loaded = true
		f.fn(Change{Loaded: true})
	}
}

// open starts a watcher of the library. The library takes ctx for the watch's
// life and its first request alike, so that only cancel can end a request that
// isn't answered.
func (f *follower) open(ctx context.Context, cancel func()) (jetstream.KeyWatcher, error) {
	giveUp := time.AfterFunc(answerWithin, cancel)
	filters := f.filters
	if len(filters) == 0 {
		filters = []string{jetstream.AllKeys}
	}
	w, err := f.kv.WatchFiltered(ctx, filters)
	if giveUp.Stop() {
		return w, err
	}
	if err == nil {
		drain(w)
	}
	return nil, fmt.Errorf("JetStream did not answer within %v", answerWithin)
}

// drain reads what a watcher still holds once its context has ended, which
// makes the library unsubscribe: the sender of a full channel would wait for a
// reader for ever. The library closes the channel then, except when the
// context ended while it was subscribing; hence the limit, which is far longer
// than a waiting sender needs to come back.
func drain(w jetstream.KeyWatcher) {
	for {
		select {
		case _, open := <-w.Updates():
			if !open {
				return
			}
		case <-time.After(time.Second):
			return
		}
	}
}

// position is how far a bucket is.
type position struct {
	last    uint64    // revision of the last write
	created time.Time // when the bucket was made
	err     error
}

func (f *follower) ask(ctx context.Context) position {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	status, err := f.kv.Status(ctx)
	if err != nil {
		return position{err: err}
	}
	bucket, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return position{err: fmt.Errorf("bucket %s: status is a %T", f.kv.Bucket(), status)}
	}
	info := bucket.StreamInfo()
	return position{last: info.State.LastSeq, created: info.Created}
}

// vigil decides whether a watcher has gone deaf.
type vigil struct {
	seen      uint64 // revision of the last change that arrived
	suspected bool   // the last answer was further than seen…
	suspect   uint64 // …and seen was this
}

// judge compares the bucket's answer with what arrived. It returns when to ask
// again, or why the watcher must be replaced.
func (v *vigil) judge(start, now position, waiting bool) (time.Duration, error) {
	switch {
	case errors.Is(now.err, nats.ErrConnectionClosed):
		return 0, now.err
	case now.err != nil: // no answer says nothing about the watcher
		return probeEvery, nil //nolint:nilerr // see above
	case !now.created.Equal(start.created):
		return 0, errRecreated
	case now.last <= v.seen || waiting:
		v.suspected = false
		return probeEvery, nil
	case v.suspected && v.suspect == v.seen:
		return 0, errStalled
	default:
		v.suspected, v.suspect = true, v.seen
		return confirmAfter, nil
	}
}
