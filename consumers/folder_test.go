package consumers

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers/rollup"
	"backstop/embedded/natstest"
	"backstop/streams"
)

func rollupsBucket(t *testing.T) (jetstream.JetStream, jetstream.KeyValue) {
	t.Helper()
	js := natstest.Start(t).JetStream()
	if err := streams.NewTopology(js, streams.Settings{StoreBytes: 4 << 30}).Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), streams.RollupsBucket)
	if err != nil {
		t.Fatal(err)
	}
	return js, kv
}

// Three replicas that all believe to hold the lease, as after a pause of the
// whole process, do no harm: each batch has one winner.
func TestFoldersThatRunAtOnceCountOnce(t *testing.T) {
	t.Parallel()
	js, kv := rollupsBucket(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for range 3 {
		f := &folder{js: js, log: log}
		running.Go(func() { f.run(ctx) })
	}
	rollups := NewRollups(js, kv, log)
	running.Go(func() { _ = rollups.Run(ctx) })

	const total = 2000
	for i := range total {
		a := streams.Attempt{ID: fmt.Sprint(i), App: fmt.Sprintf("app%d", i%5), Capability: "analytics", Attempt: 1, DurationMs: 1, Requested: true, Success: true}
		msg, err := a.Msg()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsg(ctx, msg); err != nil {
			t.Fatal(err)
		}
	}
	for patience := time.After(60 * time.Second); ; {
		o, err := rollups.Overview(ctx, time.Now().Add(-time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if o.Total.Attempts > total {
			t.Fatalf("%d attempts, want %d", o.Total.Attempts, total)
		}
		if o.Total.Attempts == total {
			break
		}
		select {
		case <-patience:
			t.Fatalf("%d attempts, want %d", o.Total.Attempts, total)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// What a full bucket has dropped is forgotten too, so that a replica that
// starts now shows the same; and what is a day old, whatever is there.
func TestRollupsForgetWhatTheBucketDropped(t *testing.T) {
	js, kv := rollupsBucket(t)
	id := streams.EndpointID{Capability: "analytics", App: "quiz"}
	now := time.Now()
	fold := &rollup.Fold{}
	for _, ago := range []time.Duration{26 * time.Hour, 10 * time.Minute, 5 * time.Minute, 0} {
		fold.Add(1, now.Add(-ago), id, rollup.Entry{Requested: true})
	}
	r := NewRollups(js, kv, slog.New(slog.DiscardHandler))
	close(r.loaded)
	for _, part := range fold.Unstored() {
		r.window.Put(part)
		if now.Sub(part.Minute) > 8*time.Minute {
			continue // dropped
		}
		value, err := part.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kv.Put(t.Context(), part.Key(), value); err != nil {
			t.Fatal(err)
		}
	}
	r.forget(t.Context())
	all, err := r.Overview(t.Context(), now.Add(-48*time.Hour))
	stats := all.Endpoint(id)
	if err != nil || stats.Attempts != 2 {
		t.Errorf("%d attempts, %v, want those of the two minutes that the bucket has", stats.Attempts, err)
	}
	later := NewRollups(js, kv, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- later.Run(ctx) }()
	if again, err := later.Overview(ctx, now.Add(-48*time.Hour)); err != nil || !reflect.DeepEqual(again.Endpoint(id), stats) {
		t.Errorf("one that starts now has %+v, %v, want %+v", again.Endpoint(id), err, stats)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A replica that was paused while another one took over would put back the sums
// of a minute as they were.
func TestAFolderThatWasLeftBehindStoresNothing(t *testing.T) {
	js, kv := rollupsBucket(t)
	id := streams.EndpointID{Capability: "analytics", App: "quiz"}
	now := time.Now()
	begin := func() *folding {
		g := &folding{folder: &folder{js: js, log: slog.New(slog.DiscardHandler)}}
		if err := g.resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		return g
	}
	add := func(g *folding, through uint64) {
		for g.sums.Through() < through {
			g.sums.Add(g.sums.Through()+1, now, id, rollup.Entry{Requested: true})
		}
	}
	for _, endpoints := range []int{1, 2 * rollup.PartSize} { // one message, and a batch
		paused, other := begin(), begin()
		from := paused.sums.Through()
		for i := range endpoints {
			paused.sums.Add(from+uint64(i)+1, now, streams.EndpointID{Capability: "report", App: fmt.Sprint(i)}, rollup.Entry{Requested: true})
		}
		add(other, from+20)
		if err := other.store(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := paused.store(t.Context()); err == nil {
			t.Errorf("a folder that was left behind stores %d endpoints", endpoints)
		}
	}
	r := NewRollups(js, kv, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	o, err := r.Overview(ctx, now.Add(-time.Hour))
	if err != nil || o.Total.Attempts != 40 || len(o.Endpoints) != 1 {
		t.Errorf("%d attempts at %d endpoints, %v, want 40 at one", o.Total.Attempts, len(o.Endpoints), err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
