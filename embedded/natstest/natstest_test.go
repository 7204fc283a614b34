package natstest_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"backstop/embedded/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func makeStream(t *testing.T, js jetstream.JetStream, replicas int) jetstream.Stream {
	t.Helper()
	stream, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// publish publishes until it is acknowledged. A publish that meets a leader on
// its way out is never answered, and electing another takes 4 to 8 s; the id
// keeps what was stored without an answer from being stored twice.
func publish(t *testing.T, js jetstream.JetStream, payload string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := js.Publish(try, "s.a", []byte(payload), jetstream.WithMsgID(payload))
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// awaitReconnect waits until nc has met a server again; call it with what
// StatusChanged returned before the server was lost.
func awaitReconnect(t *testing.T, back <-chan nats.Status) {
	t.Helper()
	select {
	case <-back:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection does not come back")
	}
}

func TestRestart(t *testing.T) {
	tests := []struct {
		why  string
		opts []natstest.Option
	}{
		{"in-process", nil},
		{"listening, with a token, as in production", []natstest.Option{natstest.Listen(), natstest.Token("s3cret"), natstest.SyncAlways()}},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			srv := natstest.Start(t, tt.opts...)
			js := srv.JetStream()
			makeStream(t, js, 1)
			publish(t, js, "kept")
			back := js.Conn().StatusChanged(nats.CONNECTED)
			srv.Restart()
			awaitReconnect(t, back)
			publish(t, js, "and-on")
			if info, err := makeStream(t, js, 1).Info(t.Context()); err != nil || info.State.Msgs != 2 {
				t.Errorf("%+v, %v, want 2 messages", info, err)
			}
		})
	}
}

func TestURLOutlivesRestart(t *testing.T) {
	srv := natstest.Start(t, natstest.Listen())
	nc, err := nats.Connect(srv.URL(), nats.ReconnectWait(5*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	back := nc.StatusChanged(nats.CONNECTED)
	srv.Restart()
	awaitReconnect(t, back)
}

func TestStop(t *testing.T) {
	srv := natstest.Start(t)
	nc := srv.Conn()
	lost, back := nc.StatusChanged(nats.RECONNECTING), nc.StatusChanged(nats.CONNECTED)
	srv.Stop()
	awaitReconnect(t, lost)
	if srv.Embedded() != nil {
		t.Error("there is a server after Stop")
	}
	srv.Restart()
	awaitReconnect(t, back)
}

func TestStoreMax(t *testing.T) {
	srv := natstest.Start(t, natstest.StoreMax(4<<20))
	if got := srv.Embedded().StoreMax(); got != 4<<20 {
		t.Errorf("StoreMax is %d", got)
	}
}

// A stream of three replicas outlives the loss of one server.
func TestCluster(t *testing.T) {
	c := natstest.Cluster(t, 3)
	js, err := jetstream.New(c.Conn())
	if err != nil {
		t.Fatal(err)
	}
	makeStream(t, js, 3)
	publish(t, js, "before")
	for i, s := range c.Members {
		if js.Conn().ConnectedServerName() != s.Name() {
			c.Stop(i)
			publish(t, js, "with-two-of-three")
			c.Restart(i)
			break
		}
	}
	publish(t, js, "with-three-again")
	if info, err := makeStream(t, js, 3).Info(t.Context()); err != nil || info.State.Msgs != 3 {
		t.Errorf("%+v, %v, want 3 messages", info, err)
	}
}
