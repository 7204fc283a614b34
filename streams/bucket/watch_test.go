package bucket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
)

var apps = jetstream.KeyValueConfig{Bucket: "apps", History: 5}

func newBucket(t *testing.T, js jetstream.JetStream) jetstream.KeyValue {
	t.Helper()
	kv, err := js.CreateKeyValue(t.Context(), apps)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func put(t *testing.T, kv jetstream.KeyValue, key, value string) {
	t.Helper()
	// During a restart a write may have to be tried more than once.
	eventually(t, "put "+key, func() error {
		_, err := kv.PutString(t.Context(), key, value)
		return err
	})
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// watched runs a Watch until the test ends, and gives what it tells.
type watched struct {
	t       *testing.T
	changes chan Change
	done    chan error
	cancel  context.CancelFunc
}

func watch(t *testing.T, kv jetstream.KeyValue) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watched{t: t, changes: make(chan Change, 1000), done: make(chan error, 1), cancel: cancel}
	go func() { w.done <- Watch(ctx, kv, slog.New(slog.DiscardHandler), func(c Change) { w.changes <- c }) }()
	t.Cleanup(w.stop)
	return w
}

func (w *watched) stop() {
	w.cancel()
	select {
	case err := <-w.done:
		if err != nil {
			w.t.Errorf("Watch: %v", err)
		}
		w.done <- nil
	case <-time.After(10 * time.Second):
		w.t.Error("Watch doesn't end with its context")
	}
}

func (w *watched) next() string {
	w.t.Helper()
	select {
	case c := <-w.changes:
		switch {
		case c.Loaded:
			return "loaded"
		case c.Removed:
			return "-" + c.Key
		default:
			return c.Key + "=" + string(c.Value)
		}
	case <-time.After(20 * time.Second):
		w.t.Fatal("nothing is told")
		return ""
	}
}

func (w *watched) expect(want ...string) {
	w.t.Helper()
	for _, s := range want {
		if got := w.next(); got != s {
			w.t.Fatalf("told %q, want %q", got, s)
		}
	}
}

func TestWatchTellsStateThenLoadedThenChanges(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	put(t, kv, "a", "1")
	put(t, kv, "b", "1")
	put(t, kv, "gone", "1")
	if err := kv.Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	w := watch(t, kv)
	w.expect("a=1", "b=1", "loaded")
	put(t, kv, "a", "2")
	if err := kv.Delete(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	put(t, kv, "b", "3")
	w.expect("a=2", "-b", "b=3")
}

// A bucket keeps the last word of a key only: of a value that was removed at
// once a watch may hear nothing but the removal.
func TestWatchTellsTheRemovalOfWhatItNeverSaw(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	w := watch(t, kv)
	w.expect("loaded")
	if err := kv.Delete(t.Context(), "short"); err != nil { // as if its value had been overtaken
		t.Fatal(err)
	}
	w.expect("-short")
}

func TestWatchOfAnEmptyBucket(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	w := watch(t, kv)
	w.expect("loaded")
	put(t, kv, "a", "1")
	w.expect("a=1")
}

// The library's consumer lives in the server's memory: after a restart of the
// server nothing arrives any more until somebody makes a new one.
func TestWatchSurvivesRestartOfTheServer(t *testing.T) {
	n := natstest.Start(t)
	js := n.JetStream()
	kv := newBucket(t, js)
	put(t, kv, "a", "1")
	put(t, kv, "b", "1")
	w := watch(t, kv)
	w.expect("a=1", "b=1", "loaded")
	n.Restart()
	put(t, kv, "a", "2") // unchanged b is not told again
	began := time.Now()
	w.expect("a=2")
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("told only %v after the write: it was the library's own 10 s check, not ours", d)
	}
}

func TestWatchTellsRemovalsOfARecreatedBucket(t *testing.T) {
	js := natstest.Start(t).JetStream()
	// With an account's last stream the server removes the directory that holds
	// its streams, and does so after its answer: a stream made at that instant
	// then finds no place for its store (API error 10049).
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "other"}); err != nil {
		t.Fatal(err)
	}
	kv := newBucket(t, js)
	for i := range 5 {
		put(t, kv, "a", fmt.Sprint(i))
	}
	put(t, kv, "b", "1")
	w := watch(t, kv)
	w.expect("a=4", "b=1", "loaded")
	if err := js.DeleteKeyValue(t.Context(), "apps"); err != nil {
		t.Fatal(err)
	}
	kv = newBucket(t, js)
	// Revision 1 of the new bucket lies before what the watch has seen.
	put(t, kv, "a", "4")
	w.expect("a=4", "-b")
	// The same key with the same revision is another value all the same.
	if err := js.DeleteKeyValue(t.Context(), "apps"); err != nil {
		t.Fatal(err)
	}
	kv = newBucket(t, js)
	put(t, kv, "a", "5")
	w.expect("a=5")
}

// A marker that is purged is the bucket's last write and is never delivered.
// It must not count as a change that doesn't arrive.
func TestWatchIsNotRestartedByAPurgedTail(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	put(t, kv, "a", "1")
	put(t, kv, "b", "1")
	if err := kv.Delete(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if err := kv.PurgeDeletes(t.Context(), jetstream.DeleteMarkersOlderThan(-1)); err != nil {
		t.Fatal(err)
	}
	f := follower{kv: kv, fn: func(Change) {}, known: make(map[string]version)}
	ctx, cancel := context.WithTimeout(t.Context(), 5*probeEvery/2)
	defer cancel()
	if err := f.follow(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the watcher was given up: %v", err)
	}
}

func TestWatchEndsWhenTheConnectionIsClosed(t *testing.T) {
	nc := natstest.Start(t).Conn()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv := newBucket(t, js)
	loaded, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- Watch(t.Context(), kv, slog.New(slog.DiscardHandler), func(c Change) {
			if c.Loaded {
				close(loaded)
			}
		})
	}()
	<-loaded
	nc.Close()
	select {
	case err := <-done:
		if !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("error %v, want ErrConnectionClosed", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Watch goes on without a connection")
	}
}

func TestWatchEndsWhileTheServerIsDown(t *testing.T) {
	n := natstest.Start(t)
	js := n.JetStream()
	kv := newBucket(t, js)
	w := watch(t, kv)
	w.expect("loaded")
	n.Stop()
	began := time.Now()
	w.stop()
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("ended only after %v", d)
	}
}

func TestVigil(t *testing.T) {
	made := time.Now()
	start := position{last: 10, created: made}
	tests := []struct {
		name    string
		vigil   vigil
		now     position
		waiting bool
		next    time.Duration
		err     error
		reason  string
	}{
		{"caught up", vigil{seen: 10}, position{last: 10, created: made}, false, probeEvery, nil, "everything arrived"},
		{"behind", vigil{seen: 9}, position{last: 10, created: made}, false, confirmAfter, nil, "the change may be on its way"},
		{"behind, more waits", vigil{seen: 9, suspected: true, suspect: 9}, position{last: 10, created: made}, true, probeEvery, nil, "the reader is slow, not deaf"},
		{"behind, twice", vigil{seen: 9, suspected: true, suspect: 9}, position{last: 10, created: made}, false, 0, errStalled, "nothing came in between"},
		{"behind, progress", vigil{seen: 9, suspected: true, suspect: 8}, position{last: 10, created: made}, false, confirmAfter, nil, "something came in between"},
		{"no answer", vigil{seen: 9, suspected: true, suspect: 9}, position{err: context.DeadlineExceeded}, false, probeEvery, nil, "says nothing of the watcher"},
		{"new bucket", vigil{seen: 10}, position{last: 1, created: made.Add(1)}, false, 0, errRecreated, "revisions start again"},
		{"closed", vigil{seen: 10}, position{err: nats.ErrConnectionClosed}, false, 0, nats.ErrConnectionClosed, "no reload can help"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			next, err := tt.vigil.judge(start, tt.now, tt.waiting)
			if next != tt.next || !errors.Is(err, tt.err) {
				t.Errorf("got %v, %v; want %v, %v: %s", next, err, tt.next, tt.err, tt.reason)
			}
		})
	}
}
