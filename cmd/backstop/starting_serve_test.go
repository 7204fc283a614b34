package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/secrets"
)

// TestServeOutlivesItsNATSWhileItStarts: a server that goes away between the
// streams and the buckets is waited for, as one that isn't there yet is.
func TestServeOutlivesItsNATSWhileItStarts(t *testing.T) {
	cleanEnvironment(t)
	srv := natstest.Start(t, natstest.Listen())
	cfg := defaultConfig()
	cfg.NATSURL = srv.URL()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	b, err := openBroker(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close(log)
	if err := b.untilReachable(t.Context(), log, "make the streams", streams.NewTopology(b.js, streams.Settings{}).Ensure); err != nil {
		t.Fatal(err)
	}
	key, err := secrets.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	opened := make(chan error, 1)
	go func() {
		found, err := openBuckets(t.Context(), b, key, log)
		if err == nil && (found.secrets == nil || found.apps == nil || found.breakers == nil || found.health == nil || found.callbacks == nil || found.fallback.Cache == nil) {
			t.Errorf("not everything was opened: %+v", found)
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("it gave up at once: %v", err)
	case <-time.After(100 * time.Millisecond): // it waits; how long, doesn't matter
	}
	srv.Restart()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// TestUnsettled: a cluster that has no leader yet, or whose leader has not heard
// from all servers, is waited for. serve once ended with JetStream's "system
// temporarily unavailable" (rig, seed 7030).
func TestUnsettled(t *testing.T) {
	for description, want := range map[string]bool{
		"no suitable peers for placement, peer offline":          true,
		"no suitable peers for placement, insufficient storage":  false,
		"no suitable peers for placement, tags not matched: [x]": false,
	} {
		err := fmt.Errorf("stream DLQ: %w", &jetstream.APIError{Code: 400, ErrorCode: noPlace, Description: description})
		if got := unsettled(err); got != want {
			t.Errorf("%s: %t, want %t", description, got, want)
		}
	}
	if !unsettled(&jetstream.APIError{Code: 503, ErrorCode: noLeader, Description: "JetStream system temporarily unavailable"}) {
		t.Error("a cluster without a leader is not waited for")
	}
	if unsettled(&jetstream.APIError{Code: 503, ErrorCode: 10076, Description: "JetStream not enabled"}) {
		t.Error("a server without JetStream is waited for")
	}
}
