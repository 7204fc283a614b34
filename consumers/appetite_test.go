package consumers

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
)

// TestPullsOnThreeServersGetWhatTheyAskFor: one by one, each message comes at
// its first delivery. With a limit of bytes none came: see appetite.
func TestPullsOnThreeServersGetWhatTheyAskFor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	js, err := jetstream.New(natstest.Cluster(t, 3).Conn())
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "LANES", Subjects: []string{"lanes.>"}, Retention: jetstream.WorkQueuePolicy, Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	cons, err := js.CreateConsumer(ctx, "LANES", jetstream.ConsumerConfig{Durable: "own", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	const count = 20
	for i := range count {
		if _, err := js.Publish(ctx, "lanes.x", fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	for got := 0; got < count; {
		n, err := pullOnce(ctx, cons, 1, 10*time.Second, func(msg jetstream.Msg) {
			if meta, err := msg.Metadata(); err != nil || meta.NumDelivered != 1 || string(msg.Data()) != fmt.Sprint(got) {
				t.Errorf("got message %s for the %dth, delivered %+v (%v)", msg.Data(), got, meta, err)
			}
			_ = msg.Ack()
			got++
		})
		if err != nil || n != 1 {
			t.Fatalf("pull %d brought %d messages, %v", got, n, err)
		}
	}
}

// sized is a message of which only the size matters.
type sized struct {
	jetstream.Msg
	size int
}

func (s sized) Data() []byte { return make([]byte, s.size) }

func TestAppetite(t *testing.T) {
	const room = 32 << 20
	var a appetite
	if n := a.atMost(512, room); n != 128 {
		t.Errorf("before anything was seen: %d, want the 128 of 256 KiB that fit", n)
	}
	if n := a.atMost(1, room); n != 1 {
		t.Errorf("of one: %d", n)
	}
	for range 10 {
		a.seen(sized{size: 100})
	}
	if n := a.atMost(512, room); n != 512 {
		t.Errorf("after small ones: %d, want all 512", n)
	}
	a.seen(sized{size: 900 << 10})
	if n := a.atMost(512, room); n != 36 {
		t.Errorf("after a large one: %d, want the 36 that fit into 32 MiB", n)
	}
	for range 200 {
		a.seen(sized{size: 100})
	}
	if n := a.atMost(512, room); n > 60 {
		t.Errorf("a large one 200 ago: %d, want about 50: the next may come soon", n)
	}
	for range 10_000 {
		a.seen(sized{size: 100})
	}
	if n := a.atMost(512, room); n != 512 {
		t.Errorf("a large one long ago: %d, want all 512", n)
	}
	a.seen(sized{size: 64 << 20})
	if n := a.atMost(512, room); n != 1 {
		t.Errorf("after one larger than the room: %d, want 1", n)
	}
}

func TestRations(t *testing.T) {
	var r rations
	for _, tt := range []struct{ shared, own, sharedPull, ownPull int }{
		{0, 0, 16 << 20, 16 << 20},
		{1, 1, 16 << 20, 16 << 20},
		{8, 64, 2 << 20, 256 << 10},
		{1024, 1000, 16 << 10, 64 << 10},
	} {
		r.shared.Store(int64(tt.shared))
		r.own.Store(int64(tt.own))
		if got := r.sharedPull(); got != tt.sharedPull {
			t.Errorf("%d shared lanes pull %d bytes each, want %d", tt.shared, got, tt.sharedPull)
		}
		if got := r.ownPull(); got != tt.ownPull {
			t.Errorf("%d own lanes pull %d bytes each, want %d", tt.own, got, tt.ownPull)
		}
	}
}

func TestHeldBytesAreBounded(t *testing.T) {
	const mib = 1 << 20
	var r rations
	for _, tt := range []struct {
		all, holds, want int
		reason           string
	}{
		{0, 0, 256 * mib, "all of it"},
		{100 * mib, 100 * mib, 156 * mib, "what one lane holds is no more than what all do"},
		{256 * mib, 256 * mib, 0, "nothing is left, for who holds it"},
		{300 * mib, mib / 2, mib / 2, "and a little for who holds hardly any"},
	} {
		r.sharedHeld.Store(int64(tt.all))
		if got := r.room(tt.holds); max(got, 0) != tt.want {
			t.Errorf("with %d bytes held, of which %d by a lane, it may take on %d, want %d: %s", tt.all, tt.holds, got, tt.want, tt.reason)
		}
	}
	if r.ownHeld.Store(256 * mib); r.crowded() {
		t.Error("own lanes are crowded with what they may hold")
	}
	if r.ownHeld.Store(256*mib + 1); !r.crowded() {
		t.Error("own lanes are not crowded with more than they may hold")
	}
}

func TestHoldsCountBytes(t *testing.T) {
	var all atomic.Int64
	all.Store(100) // of others
	h := newHolds(&all)
	expect := func(count, bytes int) {
		t.Helper()
		if c, b := h.held(); c != count || b != bytes || all.Load() != int64(100+bytes) {
			t.Errorf("holds %d messages of %d bytes, and all %d, want %d of %d", c, b, all.Load(), count, bytes)
		}
	}
	h.add(1, sized{size: 10})
	h.add(2, sized{size: 5})
	h.add(2, sized{size: 5}) // handed out again
	expect(2, 15)
	h.release(1)
	h.release(1) // settled twice, as after a late mark
	expect(1, 5)
	h.release(2)
	expect(0, 0)
}
