package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// dlqBundle is a NATS with the dead letters 1 and 2 of analytics and 3 of a
// capability that has no stream.
type dlqBundle struct {
	app  *app
	said *bytes.Buffer
	c    *client
	js   jetstream.JetStream
}

func newDLQBundle(t *testing.T) dlqBundle {
	t.Helper()
	srv := natstest.Start(t)
	nc := srv.Conn()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	topology := streams.NewTopology(js, streams.Settings{})
	if err := errors.Join(topology.Ensure(t.Context()), topology.EnsureCapability(t.Context(), "analytics")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct{ id, capability string }{{"e1", "analytics"}, {"e2", "analytics"}, {"e3", "gone"}} {
		letter := streams.DeadLetter{
			Event:  streams.Event{ID: d.id, Origin: d.id, EndpointID: streams.EndpointID{Capability: d.capability, App: "quiz"}, Payload: []byte(`{"id": "` + d.id + `"}`)},
			Reason: streams.Exhausted, FailedAt: time.Now(),
		}
		if err := streams.NewDeadLetters(js).Store(t.Context(), letter); err != nil {
			t.Fatal(err)
		}
	}
	said := &bytes.Buffer{}
	return dlqBundle{app: &app{in: strings.NewReader(""), out: said, err: said}, said: said, c: &client{nc: nc, js: js}, js: js}
}

func (b dlqBundle) letters(t *testing.T) uint64 {
	t.Helper()
	stream, err := b.js.Stream(t.Context(), streams.DeadLetterStream)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func replayDecision() *decision {
	return &decision{verb: "replay", past: "replayed", act: func(ctx context.Context, s *streams.DeadLetters, l streams.DeadLetter) error {
		return s.Replay(ctx, l)
	}}
}

func TestCarryOut(t *testing.T) {
	b := newDLQBundle(t)
	// 99 stands for one that somebody else has decided about meanwhile.
	result, err := b.app.carryOut(t.Context(), b.c, replayDecision(), []uint64{3, 1, 99, 2}, 0)
	if want := (decided{Matched: 4, Done: 2, Skipped: 1, Failed: 1}); result.Matched != want.Matched || result.Done != want.Done ||
		result.Skipped != want.Skipped || result.Failed != want.Failed {
		t.Errorf("got %+v, want %+v", result, want)
	}
	if !errors.Is(err, streams.ErrNoStream) {
		t.Errorf("error %v, want that of the capability without a stream", err)
	}
	if left := b.letters(t); left != 1 {
		t.Errorf("%d dead letters are left, want the one that failed", left)
	}
	// The app will see the same id and payload.
	stream, err := b.js.Stream(t.Context(), streams.EventStream("analytics"))
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if msg.Header.Get(streams.HeaderID) != "e1" || string(msg.Data) != `{"id": "e1"}` {
		t.Errorf("replayed %v %s", msg.Header, msg.Data)
	}
}

// Ctrl-C ends between two dead letters, and what was begun is finished.
func TestCarryOutInterrupted(t *testing.T) {
	b := newDLQBundle(t)
	ctx, interrupt := context.WithCancel(t.Context())
	d := replayDecision()
	replay := d.act
	d.act = func(ctx context.Context, s *streams.DeadLetters, l streams.DeadLetter) error {
		interrupt()
		return replay(ctx, s, l)
	}
	result, err := b.app.carryOut(ctx, b.c, d, []uint64{1, 2}, 0)
	if result.Done != 1 || err == nil || !strings.Contains(err.Error(), "1 dead letter not replayed; the same command goes on: interrupted") {
		t.Errorf("got %+v, %v", result, err)
	}
	if left := b.letters(t); left != 2 {
		t.Errorf("%d dead letters are left, want 2 of 3", left)
	}
}

func TestCarryOutKeepsToTheRate(t *testing.T) {
	b := newDLQBundle(t)
	began := time.Now()
	if _, err := b.app.carryOut(t.Context(), b.c, replayDecision(), []uint64{1, 2, 98, 99}, 20); err != nil {
		t.Fatal(err)
	}
	// The first goes at once, and three wait for 50 ms each.
	if took := time.Since(began); took < 140*time.Millisecond {
		t.Errorf("4 at 20/s took %v", took)
	}
}
