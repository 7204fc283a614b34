package consumers

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// Three replicas that all believe to hold the lease, as after a pause of the
// whole process, do no harm: each batch has one winner.
func TestFoldersThatRunAtOnceCountOnce(t *testing.T) {
	js := natstest.Start(t).JetStream()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := streams.NewTopology(js, streams.Settings{StoreBytes: 4 << 30}).Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(ctx, streams.RollupsBucket)
	if err != nil {
		t.Fatal(err)
	}
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
