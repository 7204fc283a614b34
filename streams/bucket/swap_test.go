package bucket

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
)

func TestSwapLosesNoConcurrentChange(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	const writers, rounds = 8, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				_, _, err := Swap(t.Context(), kv, "count", func(old []byte) ([]byte, error) {
					n, _ := strconv.Atoi(string(old))
					return strconv.AppendInt(nil, int64(n+1), 10), nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	e, err := kv.Get(t.Context(), "count")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(e.Value()); got != strconv.Itoa(writers*rounds) {
		t.Errorf("count is %s, want %d: a change was overwritten", got, writers*rounds)
	}
}

func TestSwapReportsCreatedAndUnchanged(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	set := func(value string) (uint64, bool) {
		t.Helper()
		rev, created, err := Swap(t.Context(), kv, "a", func([]byte) ([]byte, error) { return []byte(value), nil })
		if err != nil {
			t.Fatal(err)
		}
		return rev, created
	}
	if rev, created := set("x"); rev != 1 || !created {
		t.Errorf("first: revision %d, created %v", rev, created)
	}
	if rev, created := set("x"); rev != 1 || created {
		t.Errorf("same value: revision %d, created %v; want nothing written", rev, created)
	}
	if rev, created := set("y"); rev != 2 || created {
		t.Errorf("changed: revision %d, created %v", rev, created)
	}
	if err := kv.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if rev, created := set("y"); rev != 4 || !created {
		t.Errorf("after a removal: revision %d, created %v", rev, created)
	}
}

func TestSwapStopsAtAnErrorOfChange(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	wrong := errors.New("wrong")
	if _, _, err := Swap(t.Context(), kv, "a", func([]byte) ([]byte, error) { return nil, wrong }); !errors.Is(err, wrong) {
		t.Errorf("error %v, want change's own", err)
	}
}

func TestWriteRefusesAnotherRevision(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	put(t, kv, "a", "1")
	put(t, kv, "a", "2")
	for _, revision := range []uint64{0, 1, 3} {
		if _, err := Write(t.Context(), kv, "a", []byte("x"), revision); !errors.Is(err, ErrConflict) {
			t.Errorf("revision %d: error %v, want ErrConflict", revision, err)
		}
	}
	if _, err := Write(t.Context(), kv, "b", []byte("x"), 7); !errors.Is(err, ErrConflict) {
		t.Error("a revision of a key that isn't there is a conflict")
	}
	if rev, err := Write(t.Context(), kv, "a", []byte("3"), 2); err != nil || rev != 3 {
		t.Errorf("right revision: %d, %v", rev, err)
	}
}

// A bucket with a key for every event would grow for ever if each removal left
// its trace.
func TestEraseLeavesNoTrace(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "b", LimitMarkerTTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	revision, err := kv.PutString(t.Context(), "a", "1")
	if err != nil {
		t.Fatal(err)
	}
	if err := Erase(t.Context(), kv, "a", revision+1, time.Second); !errors.Is(err, ErrConflict) {
		t.Errorf("another revision: %v", err)
	}
	if err := Erase(t.Context(), kv, "a", revision, time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(t.Context(), "a"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("after it was removed: %v", err)
	}
	patience := time.After(30 * time.Second)
	for {
		stream, err := js.Stream(t.Context(), "KV_b")
		if err != nil {
			t.Fatal(err)
		}
		if stream.CachedInfo().State.Msgs == 0 {
			return
		}
		select {
		case <-patience:
			t.Fatalf("the trace stays: %+v", stream.CachedInfo().State)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestListIsSortedAndWithoutRemovedKeys(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	if entries, err := List(t.Context(), kv); err != nil || len(entries) != 0 {
		t.Errorf("empty bucket: %v, %v", entries, err)
	}
	for _, key := range []string{"b", "c", "a", "b"} {
		put(t, kv, key, key)
	}
	if err := kv.Delete(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	entries, err := List(t.Context(), kv)
	if err != nil {
		t.Fatal(err)
	}
	var keys string
	for _, e := range entries {
		keys += e.Key()
	}
	if keys != "ab" {
		t.Errorf("keys %q, want %q", keys, "ab")
	}
}

func TestListThatBreaksOffIsAnError(t *testing.T) {
	js := natstest.Start(t).JetStream()
	kv := newBucket(t, js)
	put(t, kv, "a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if entries, err := List(ctx, kv); err == nil {
		t.Errorf("got %d entries and no error", len(entries))
	}
}
