package consumers

import (
	"context"
	"fmt"
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
	var a appetite
	if n := a.atMost(512); n != 128 {
		t.Errorf("before anything was seen: %d, want 128", n)
	}
	if n := a.atMost(1); n != 1 {
		t.Errorf("of one: %d", n)
	}
	for range 10 {
		a.seen(sized{size: 100})
	}
	if n := a.atMost(512); n != 512 {
		t.Errorf("after small ones: %d, want all 512", n)
	}
	a.seen(sized{size: 900 << 10})
	if n := a.atMost(512); n != 36 {
		t.Errorf("after a large one: %d, want the 36 that fit into 32 MiB", n)
	}
	for range 1000 {
		a.seen(sized{size: 100})
	}
	if n := a.atMost(512); n != 512 {
		t.Errorf("a large one long ago: %d, want all 512", n)
	}
	a.seen(sized{size: 64 << 20})
	if n := a.atMost(512); n != 1 {
		t.Errorf("after one larger than the room: %d, want 1", n)
	}
}
