package fallback

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/dispatcher"
	"backstop/streams"
	"backstop/streams/bucket"
	"backstop/streams/manifest"
)

const (
	// maxFills and maxFillBytes bound the answers that wait to be written. An
	// answer that finds no room is dropped: there will be another.
	maxFills     = 4096
	maxFillBytes = 32 << 20
	// maxRound is how many answers are taken up at once.
	maxRound = 256
	// cachePause is the least time between two rounds of writing, each of
	// which writes a key once however many answers there were for it.
	cachePause = 20 * time.Millisecond
	// cacheDrain is how long Run may go on writing when it is told to end.
	cacheDrain = 2 * time.Second
)

// Cache keeps apps' good answers in the cache bucket, for the strategy cached.
// It is safe for concurrent use. Nothing is written before Run runs.
type Cache struct {
	kv    jetstream.KeyValue
	log   *slog.Logger
	fills chan fill
	bytes atomic.Int64 // of the fills that wait
	count struct{ hits, misses, written, failed, dropped atomic.Uint64 }
}

// CacheStats counts since the start of the process.
type CacheStats struct {
	Hits    uint64 // answers given from the cache
	Misses  uint64 // lookups without an answer: nothing there, too old, no key in the payload, or the broker didn't answer in time
	Written uint64 // answers kept
	Failed  uint64 // answers that the broker didn't take
	Dropped uint64 // answers not kept because too many waited to be
}

// NewCache returns the cache in kv, the cache bucket.
func NewCache(kv jetstream.KeyValue, log *slog.Logger) *Cache {
	return &Cache{kv: kv, log: log, fills: make(chan fill, maxFills)}
}

// Stats returns what was counted so far.
func (c *Cache) Stats() CacheStats {
	return CacheStats{
		Hits: c.count.hits.Load(), Misses: c.count.misses.Load(), Written: c.count.written.Load(),
		Failed: c.count.failed.Load(), Dropped: c.count.dropped.Load(),
	}
}

// fill is an answer on its way into the cache.
type fill struct {
	endpoint streams.EndpointID
	pointers []string
	payload  []byte
	id       string
	data     json.RawMessage
	at       time.Time
}

func (f fill) size() int64 { return int64(len(f.payload) + len(f.data)) }

// keep takes an app's good answer to a call, once for each cached strategy of
// the endpoint. It never waits.
func (c *Cache) keep(call dispatcher.Call, data json.RawMessage) {
	if c == nil {
		return
	}
	for _, s := range call.Endpoint.Fallback {
		if s.Strategy == manifest.StrategyCached {
			c.offer(fill{call.Endpoint.EndpointID, s.Key, call.Event.Payload, call.Event.ID, data, time.Now()})
		}
	}
}

func (c *Cache) offer(f fill) {
	if c.bytes.Add(f.size()) <= maxFillBytes {
		select {
		case c.fills <- f:
			return
		default:
		}
	}
	c.bytes.Add(-f.size())
	c.count.dropped.Add(1)
}

// Run writes answers until ctx ends, and then those that wait, for 2 s at the
// most. It returns nil. End it after the last call has been answered.
func (c *Cache) Run(ctx context.Context) error {
	for {
		select {
		case f := <-c.fills:
			c.write(context.WithoutCancel(ctx), c.collect(f))
		case <-ctx.Done():
			c.drain(context.WithoutCancel(ctx))
			return nil
		}
		select {
		case <-time.After(cachePause):
		case <-ctx.Done():
		}
	}
}

func (c *Cache) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, cacheDrain)
	defer cancel()
	for ctx.Err() == nil {
		select {
		case f := <-c.fills:
			c.write(ctx, c.collect(f))
		default:
			return
		}
	}
	c.count.dropped.Add(uint64(len(c.fills)))
}

// collect returns answers that wait, the last for each key. Keys are made
// here, as reading a payload would take time from a call.
func (c *Cache) collect(first fill) map[string]fill {
	last := make(map[string]fill)
	for f, n := first, min(len(c.fills), maxRound-1); ; n-- {
		c.bytes.Add(-f.size())
		if key, err := cacheKey(f.endpoint, f.pointers, f.payload); err == nil {
			last[key] = f
		} // otherwise the payload has no key, and a call with it would find nothing
		if n == 0 {
			return last
		}
		f = <-c.fills // Run alone takes them, so there are n
	}
}

// write stores a round. When the broker doesn't take one answer, it is given
// up with the rest of its round: a cache is no reason to queue for a broker.
func (c *Cache) write(ctx context.Context, round map[string]fill) {
	left := uint64(len(round))
	for key, f := range round {
		if err := c.put(ctx, key, f); err != nil {
			c.count.failed.Add(left)
			c.log.Warn("answers of apps could not be cached", "answers", left, "error", err)
			return
		}
		c.count.written.Add(1)
		left--
	}
}

// entry is a value of the bucket.
type entry struct {
	// RequestID is the call that was answered.
	RequestID string `json:"requestId"`
	// HeldMs is how old the answer was when it was written.
	HeldMs int64 `json:"heldMs"`
	// Data is the app's data; nil when it had none.
	Data json.RawMessage `json:"data,omitempty"`

	age time.Duration // now
}

func (c *Cache) put(ctx context.Context, key string, f fill) error {
	value, err := spelled(entry{RequestID: f.id, HeldMs: time.Since(f.at).Milliseconds() + 1, Data: f.data})
	if err != nil {
		return err
	}
	_, err = bucket.Put(ctx, c.kv, key, value)
	return err
}

// get returns what is kept under a key, and how old it is by the broker's clock.
func (c *Cache) get(ctx context.Context, key string) (entry, error) {
	kept, err := bucket.Get(ctx, c.kv, key)
	if err != nil {
		return entry{}, err
	}
	if kept == nil {
		return entry{}, errNothingCached
	}
	var e entry
	if err := json.Unmarshal(kept.Value(), &e); err != nil {
		return entry{}, fmt.Errorf("entry %s of bucket %s is not an answer: %w", key, c.kv.Bucket(), err)
	}
	e.age = max(time.Since(kept.Created()), 0) + time.Duration(e.HeldMs)*time.Millisecond
	return e, nil
}

// cacheKey is where the answer to a payload is kept: under the endpoint's name,
// and a hash of the pointers with the values that they lead to, or of the whole
// payload when there are none. It is the same however the JSON is spelled. The
// error says that the payload has no such value.
func cacheKey(id streams.EndpointID, pointers []string, payload []byte) (string, error) {
	values := []json.RawMessage{payload}
	if len(pointers) > 0 {
		var err error
		if values, err = pointed(payload, pointers); err != nil {
			return "", err
		}
	}
	h := sha256.New()
	part := func(b []byte) { // with its length, so that no two lists of parts read the same
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	part([]byte(strconv.Itoa(len(pointers)))) // tells where the pointers end
	for _, p := range pointers {
		part([]byte(p))
	}
	for _, v := range values {
		spelling, err := canonical(v)
		if err != nil {
			return "", err
		}
		part(spelling)
	}
	return id.Capability + "." + id.App + "." + hex.EncodeToString(h.Sum(nil)), nil
}
