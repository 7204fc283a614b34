package ops

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"backstop/streams"
)

// newDeadLetters is a bundle with the dead letters 1 and 2 of analytics and 3
// of a capability that has no stream.
func newDeadLetters(t *testing.T) *bundle {
	t.Helper()
	b := newBundle(t)
	for _, d := range []struct{ id, capability string }{{"e1", "analytics"}, {"e2", "analytics"}, {"e3", "gone"}} {
		b.must(b.DeadLetters().Store(t.Context(), streams.DeadLetter{
			Event:  streams.Event{ID: d.id, Origin: d.id, EndpointID: streams.EndpointID{Capability: d.capability, App: "quiz"}, Payload: []byte(`{"id": "` + d.id + `"}`)},
			Reason: streams.Exhausted, FailedAt: time.Now(),
		}))
	}
	return b
}

func TestDecide(t *testing.T) {
	b := newDeadLetters(t)
	// 99 stands for one that somebody else has decided about meanwhile.
	result, err := b.Decide(t.Context(), ann, Replay(), Selection{Sequences: []uint64{3, 1, 99, 2}}, Options{Why: "the app is back"})
	if want := (Decided{Matched: 4, Done: 2, Skipped: 1, Failed: 1}); result != want {
		t.Errorf("got %+v, want %+v", result, want)
	}
	if !errors.Is(err, streams.ErrNoStream) || !errors.As(err, new(*FailedError)) {
		t.Errorf("error %v, want that of the capability without a stream", err)
	}
	if left := b.messages(streams.DeadLetterStream); left != 1 {
		t.Errorf("%d dead letters are left, want the one that failed", left)
	}
	// The app will see the same id and payload.
	stream, err := b.js.Stream(t.Context(), streams.EventStream("analytics"))
	b.must(err)
	msg, err := stream.GetMsg(t.Context(), 1)
	b.must(err)
	if msg.Header.Get(streams.HeaderID) != "e1" || string(msg.Data) != `{"id": "e1"}` {
		t.Errorf("replayed %v %s", msg.Header, msg.Data)
	}
	// On record: the decision, and that it was not carried out to the end.
	record := b.record()
	if len(record) != 2 || record[0].Failed != "" || record[0].By != "ann" || record[0].Why != "the app is back" ||
		!strings.Contains(string(record[0].Before), `"sequences":[3,1,99,2]`) || !strings.Contains(record[1].Failed, "1 dead letter could not be replayed") {
		t.Errorf("on record: %+v", record)
	}
}

// The end of the context takes effect between two dead letters, and what was
// begun is finished.
func TestDecideInterrupted(t *testing.T) {
	b := newDeadLetters(t)
	ctx, interrupt := context.WithCancel(t.Context())
	d := Replay()
	replay := d.act
	d.act = func(ctx context.Context, s *streams.DeadLetters, l streams.DeadLetter, by Actor, why string) error {
		interrupt()
		return replay(ctx, s, l, by, why)
	}
	result, err := b.Decide(ctx, ann, d, Selection{Sequences: []uint64{1, 2}}, Options{})
	if result.Done != 1 || result.Left() != 1 || !errors.As(err, new(*StoppedError)) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v", result, err)
	}
	if left := b.messages(streams.DeadLetterStream); left != 2 {
		t.Errorf("%d dead letters are left, want 2 of 3", left)
	}
	if record := b.record(); len(record) != 2 || !strings.Contains(record[1].Failed, "1 dead letter not replayed") {
		t.Errorf("on record: %+v", record)
	}
}

func TestDecideKeepsToTheRate(t *testing.T) {
	b := newDeadLetters(t)
	began := time.Now()
	if _, err := b.Decide(t.Context(), ann, Replay(), Selection{Sequences: []uint64{1, 2, 98, 99}}, Options{PerSecond: 20}); err != nil {
		t.Fatal(err)
	}
	// The first goes at once, and three wait for 50 ms each.
	if took := time.Since(began); took < 140*time.Millisecond {
		t.Errorf("4 at 20/s took %v", took)
	}
}

// What takes longer than it may stops between two, and says what is left.
func TestDecideWithin(t *testing.T) {
	b := newDeadLetters(t)
	result, err := b.Decide(t.Context(), ann, Discard(), Selection{Sequences: []uint64{1, 2}}, Options{Within: time.Nanosecond})
	b.must(err)
	if result.Done != 1 || result.Left() != 1 {
		t.Errorf("got %+v, want one done and one left", result)
	}
	if left := b.messages(streams.DeadLetterStream); left != 2 {
		t.Errorf("%d dead letters are left", left)
	}
}

func TestSelect(t *testing.T) {
	b := newDeadLetters(t)
	s, err := b.Select(t.Context(), streams.Filter{IDs: []string{"e1", "nope"}})
	b.must(err)
	if len(s.Sequences) != 1 || s.Sequences[0] != 1 || len(s.Missing) != 1 || s.Missing[0] != "nope" || s.Through != 3 {
		t.Errorf("by id: %+v", s)
	}
	s, err = b.Select(t.Context(), streams.Filter{Through: 1})
	b.must(err)
	if len(s.Sequences) != 1 || s.Through != 1 {
		t.Errorf("through 1: %+v", s)
	}
}

func TestEstimate(t *testing.T) {
	for _, tc := range []struct {
		n         int
		perSecond float64
		want      time.Duration
	}{{0, 50, 0}, {100, 50, 2 * time.Second}, {1000, 0, 2 * time.Second}, {1000, 1e6, 2 * time.Second}, {1, 0.5, 2 * time.Second}} {
		if got := Estimate(tc.n, tc.perSecond); got != tc.want {
			t.Errorf("Estimate(%d, %v) = %v, want %v", tc.n, tc.perSecond, got, tc.want)
		}
	}
}
