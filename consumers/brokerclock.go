package consumers

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// clockEvery is how often NATS is asked what time it is.
const clockEvery = 2 * time.Second

// brokerClock is the time by NATS's clock. What replicas tell each other, and
// what one writes down to read later, goes by it: until when an event or a
// breaker waits, and how old an event is, which NATS has stamped. By their own
// clocks, a replica that is an hour ahead would have the others wait for an
// hour, and would take every event for expired.
//
// Between two answers it goes on by the monotonic clock, so that a step of the
// machine's own clock doesn't matter. The zero value, which was never told, goes
// by the machine's.
type brokerClock struct {
	mu   sync.Mutex
	told time.Time // by NATS; zero: never
	at   time.Time // when that was, by this machine
}

// now is the time by NATS's clock.
func (c *brokerClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.told.IsZero() {
		return time.Now()
	}
	return c.told.Add(time.Since(c.at))
}

// theirs translates a moment by this machine's clock into NATS's, and ours the
// other way. The zero time, which stands for none, stays so.
func (c *brokerClock) theirs(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return c.now().Add(time.Until(t))
}

func (c *brokerClock) ours(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return time.Now().Add(t.Sub(c.now()))
}

// gate returns the gate with its end by this machine's clock.
func (c *brokerClock) gate(g *streams.Gate) *streams.Gate {
	if g == nil || g.Until.IsZero() {
		return g
	}
	here := *g
	here.Until = c.ours(g.Until)
	return &here
}

// set takes over what NATS answered to a question asked at the given time; the
// answer is from somewhere between then and now.
func (c *brokerClock) set(told, asked time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told, c.at = told, asked.Add(time.Since(asked)/2)
}

// follow asks every clockEvery until ctx ends. known is called, each time, when
// NATS has answered.
func (c *brokerClock) follow(ctx context.Context, js jetstream.JetStream, known func()) {
	for ctx.Err() == nil {
		asked := time.Now()
		stream, err := js.Stream(ctx, streams.LaneStream)
		if err != nil {
			sleep(ctx, pullRetry) // it is away, and others say so
			continue
		}
		c.set(stream.CachedInfo().TimeStamp, asked)
		known()
		sleep(ctx, clockEvery)
	}
}
