package consumers

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers/rollup"
	"backstop/streams"
	"backstop/streams/bucket"
)

const (
	// overviewFresh is how long an Overview is given out again: as long as it
	// takes until the next one could tell more.
	overviewFresh = foldEvery
	// forgetEvery is how often it is looked what the bucket has let go of.
	forgetEvery = time.Minute
)

// Rollups answers what came of the attempts of the last day, from memory. Every
// replica has the same numbers, a few seconds after the fact. What is kept
// grows with the endpoints that have attempts and not with those that exist,
// and no further than the bucket does.
type Rollups struct {
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	log    *slog.Logger
	loaded chan struct{}

	mu     sync.Mutex
	window rollup.Window
	cache  map[int64]cachedOverview // by its first minute
}

type cachedOverview struct {
	at       time.Time
	overview rollup.Overview
}

// NewRollups returns a reader of kv, the rollups bucket of js. It answers once
// Run runs.
func NewRollups(js jetstream.JetStream, kv jetstream.KeyValue, log *slog.Logger) *Rollups {
	return &Rollups{js: js, kv: kv, log: log, loaded: make(chan struct{}), cache: make(map[int64]cachedOverview)}
}

// Run follows the bucket until ctx ends, which it reports as nil.
func (r *Rollups) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var forgetting sync.WaitGroup
	forgetting.Go(func() { r.forgetOld(ctx) })
	defer forgetting.Wait()
	defer cancel()
	return bucket.Watch(ctx, r.kv, r.log, func(c bucket.Change) {
		switch {
		case c.Loaded:
			close(r.loaded)
		case !c.Removed:
			r.take(c)
		}
	})
}

func (r *Rollups) take(c bucket.Change) {
	part, err := rollup.DecodePart(c.Key, c.Value)
	if err != nil {
		r.log.Error("an entry of the rollups bucket was ignored", "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.window.Put(part)
}

// forgetOld forgets what the bucket has let go of, until ctx ends. Nobody is
// told of that: the next day takes a minute's place, or a full bucket drops it.
func (r *Rollups) forgetOld(ctx context.Context) {
	for ctx.Err() == nil {
		sleep(ctx, forgetEvery)
		r.forget(ctx)
	}
}

func (r *Rollups) forget(ctx context.Context) {
	oldest := time.Now().Add(time.Minute - streams.RollupsKept)
	if first, err := r.oldest(ctx); err == nil && first.After(oldest) {
		oldest = first
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.window.Expire(oldest)
}

// oldest returns the first minute that the bucket still has.
func (r *Rollups) oldest(ctx context.Context) (time.Time, error) {
	stream, err := r.js.Stream(ctx, "KV_"+streams.RollupsBucket)
	if err != nil {
		return time.Time{}, err
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return time.Time{}, errors.New("there is none")
	}
	msg, err := stream.GetMsg(ctx, state.FirstSeq)
	if err != nil {
		return time.Time{}, err
	}
	part, err := rollup.DecodePart(rollupKey(msg.Subject), msg.Data)
	return part.Minute, err
}

// Overview returns what came of all attempts since the minute of the given
// time, at most a day ago. It waits until what is stored was read.
func (r *Rollups) Overview(ctx context.Context, since time.Time) (rollup.Overview, error) {
	if err := r.wait(ctx); err != nil {
		return rollup.Overview{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now, minute := time.Now(), since.Unix()/60
	for key, c := range r.cache {
		if now.Sub(c.at) > overviewFresh {
			delete(r.cache, key)
		}
	}
	if c, ok := r.cache[minute]; ok {
		return c.overview, nil
	}
	overview := r.window.Overview(since)
	// A long one costs more, and is given out again for longer.
	r.cache[minute] = cachedOverview{at: now.Add(foldShare * time.Since(now)), overview: overview}
	return overview, nil
}

// Series returns what came from the minute of one time to that of another, in
// steps of whole minutes, for one endpoint, or with an empty app or capability
// for all of them.
func (r *Rollups) Series(ctx context.Context, id streams.EndpointID, since, until time.Time, step time.Duration) (points []rollup.Point, err error) {
	err = r.view(ctx, func(w *rollup.Window) { points = w.Series(id, since, until, step) })
	return points, err
}

// view waits until what is stored was read, and shows it.
func (r *Rollups) view(ctx context.Context, look func(*rollup.Window)) error {
	if err := r.wait(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	look(&r.window)
	return nil
}

func (r *Rollups) wait(ctx context.Context) error {
	select {
	case <-r.loaded:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// RecentRollups reads the minutes since then, at most two hours' worth, for a
// program that looks once and goes.
func RecentRollups(ctx context.Context, kv jetstream.KeyValue, since time.Time) (*rollup.Window, error) {
	since = since.Truncate(time.Minute)
	var keys []string
	for at := since; !at.After(time.Now()) && len(keys) < 120; at = at.Add(time.Minute) {
		keys = append(keys, rollup.Minute(at)+".*")
	}
	entries, err := bucket.List(ctx, kv, keys...)
	if err != nil {
		return nil, err
	}
	w := &rollup.Window{}
	for _, e := range entries {
		// One that somebody put there hides nothing; one of yesterday is old.
		if part, err := rollup.DecodePart(e.Key(), e.Value()); err == nil && !part.Minute.Before(since) {
			w.Put(part)
		}
	}
	return w, nil
}
