package consumers

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers/rollup"
	"backstop/streams"
	"backstop/streams/bucket"
)

// overviewFresh is how long an Overview is given out again: as long as it takes
// until the next one could tell more.
const overviewFresh = foldEvery

// Rollups answers what came of the attempts of the last day, from memory. Every
// replica has the same numbers, a few seconds after the fact. What is kept
// grows with the endpoints that have attempts and not with those that exist.
type Rollups struct {
	kv     jetstream.KeyValue
	log    *slog.Logger
	loaded chan struct{}

	mu      sync.Mutex
	window  rollup.Window
	expired time.Time
	cache   map[time.Duration]cachedOverview
}

type cachedOverview struct {
	at       time.Time
	overview rollup.Overview
}

// NewRollups returns a reader of kv, the rollups bucket. It answers once Run runs.
func NewRollups(kv jetstream.KeyValue, log *slog.Logger) *Rollups {
	return &Rollups{kv: kv, log: log, loaded: make(chan struct{}), cache: make(map[time.Duration]cachedOverview)}
}

// Run follows the bucket until ctx ends, which it reports as nil.
func (r *Rollups) Run(ctx context.Context) error {
	return bucket.Watch(ctx, r.kv, r.log, func(c bucket.Change) {
		switch {
		case c.Loaded:
			close(r.loaded)
		case !c.Removed:
			r.take(c, time.Now())
		}
	})
}

func (r *Rollups) take(c bucket.Change, now time.Time) {
	part, err := rollup.DecodePart(c.Key, c.Value)
	if err != nil {
		r.log.Error("an entry of the rollups bucket was ignored", "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.window.Put(part)
	if now.Sub(r.expired) > time.Minute {
		r.window.Expire(now.Add(-streams.RollupsKept - time.Minute))
		r.expired = now
	}
}

// Overview returns what came of the attempts of the last so many minutes or
// hours, at most a day. It waits until what is stored was read.
func (r *Rollups) Overview(ctx context.Context, last time.Duration) (rollup.Overview, error) {
	if err := r.wait(ctx); err != nil {
		return rollup.Overview{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if c, ok := r.cache[last]; ok && now.Sub(c.at) < overviewFresh {
		return c.overview, nil
	}
	for key, c := range r.cache {
		if now.Sub(c.at) > overviewFresh {
			delete(r.cache, key)
		}
	}
	overview := r.window.Overview(now.Add(-last))
	r.cache[last] = cachedOverview{at: now, overview: overview}
	return overview, nil
}

// Since returns what came since the minute of the given time.
func (r *Rollups) Since(ctx context.Context, since time.Time) (rollup.Overview, error) {
	if err := r.wait(ctx); err != nil {
		return rollup.Overview{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.window.Overview(since), nil
}

// Series returns the same in steps of whole minutes, for one endpoint, or with
// an empty app or capability for all of them.
func (r *Rollups) Series(ctx context.Context, id streams.EndpointID, last, step time.Duration) ([]rollup.Point, error) {
	if err := r.wait(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	return r.window.Series(id, now.Add(-last), now, step), nil
}

func (r *Rollups) wait(ctx context.Context) error {
	select {
	case <-r.loaded:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
