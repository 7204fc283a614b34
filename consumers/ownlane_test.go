package consumers

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// meddled is a durable on which something happens just after it was looked at.
type meddled struct {
	jetstream.Consumer
	after func()
}

func (m meddled) Info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	info, err := m.Consumer.Info(ctx)
	m.after()
	return info, err
}

// TestLaneInUseIsNotRemoved: what another replica has in hand, or has parked,
// keeps a lane; and while it is being removed nothing is handed out.
func TestLaneInUseIsNotRemoved(t *testing.T) {
	t.Parallel()
	for name, connect := range map[string]func(t *testing.T) (*nats.Conn, int){
		"one server":    func(t *testing.T) (*nats.Conn, int) { t.Helper(); return natstest.Start(t).Conn(), 1 },
		"three servers": func(t *testing.T) (*nats.Conn, int) { t.Helper(); return natstest.Cluster(t, 3).Conn(), 3 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			nc, replicas := connect(t)
			js, err := jetstream.New(nc)
			must(err)
			must(streams.NewTopology(js, streams.Settings{StoreBytes: 1 << 30, Replicas: replicas}).Ensure(ctx))
			l := &ownLane{p: &Pipeline{js: js}, e: &endpoint{id: streams.EndpointID{Capability: "analytics", App: "quiz"}}}
			cons, err := js.CreateConsumer(ctx, streams.LaneStream, l.e.id.LaneConfig(time.Time{}))
			must(err)
			parked := 0
			park := func() {
				t.Helper()
				parked++
				id := fmt.Sprint(parked)
				event := streams.Event{ID: id, Origin: id, EndpointID: l.e.id, Payload: []byte(`{}`), PublishedAt: time.Now()}
				_, err = js.PublishMsg(ctx, event.LaneMsg())
				must(err)
			}
			stays := func(why string) {
				t.Helper()
				removed, err := l.removeEmpty(ctx, cons)
				if removed || err != nil {
					t.Fatalf("%s: removed %t, %v", why, removed, err)
				}
			}

			park()
			for info := cons.CachedInfo(); info.NumPending == 0; { // told of it a moment later
				info, err = cons.Info(ctx)
				must(err)
			}
			stays("an event waits")
			msg, err := cons.Next(jetstream.FetchMaxWait(20 * time.Second)) // none if the pause stayed
			must(err)
			stays("an event is in hand")
			must(msg.DoubleAck(ctx))

			inHand := 0
			removed, err := l.removeEmpty(ctx, meddled{cons, func() {
				park()
				batch, err := cons.Fetch(1, jetstream.FetchMaxWait(200*time.Millisecond))
				must(err)
				for range batch.Messages() {
					inHand++
				}
			}})
			must(err)
			if removed && inHand > 0 {
				t.Error("an event was handed out by a lane that was then removed")
			}
			if !removed { // of three servers, the one that leads may not have known yet that it was paused
				if replicas == 1 {
					t.Error("an empty lane was not removed")
				}
				return
			}
			if _, err := js.Consumer(ctx, streams.LaneStream, l.e.id.LaneConsumer()); !errors.Is(err, jetstream.ErrConsumerNotFound) {
				t.Errorf("the durable is still there: %v", err)
			}
			if removed, err := l.removeEmpty(ctx, cons); !removed || err != nil {
				t.Errorf("what another replica has removed: %t, %v", removed, err)
			}
		})
	}
}
