package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
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

// TestServeEndsWhenItsConnectionIsClosed: a connection that nats.go closes for
// good is not waited for. A process that stayed answered /healthz well and
// delivered nothing.
func TestServeEndsWhenItsConnectionIsClosed(t *testing.T) {
	cleanEnvironment(t)
	opts := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir()}
	srv := runNATS(t, opts)
	cfg := defaultConfig()
	cfg.NATSURL, cfg.DataDir, cfg.HTTPAddr = srv.ClientURL(), t.TempDir(), "127.0.0.1:0"
	if err := cfg.derive(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := serve(ctx, cfg, slog.New(slog.NewTextHandler(t.Output(), nil)), func(running) {
		strict := opts.Clone()
		strict.MaxControlLine = 16 // whatever serve says next is too long
		if err := srv.ReloadOptions(strict); err != nil {
			t.Error(err)
		}
	})
	if err == nil || !strings.Contains(err.Error(), "closed for good") || ctx.Err() != nil {
		t.Errorf("serve ended with: %v", err)
	}
}

// TestMaxMsgSize: an event that is taken has to fit with the headers of a dead
// letter, also where a NATS takes little.
func TestMaxMsgSize(t *testing.T) {
	for maxPayload, want := range map[int64]int32{1 << 20: 960 << 10, 64 << 20: 1 << 20, 128 << 10: 64 << 10, 64 << 10: 32 << 10} {
		if got := maxMsgSize(maxPayload); got != want {
			t.Errorf("maxMsgSize(%d) = %d, want %d", maxPayload, got, want)
		}
	}
}

// TestUnreachable: what goes by itself is waited for, and what doesn't ends the
// start. serve once ended with JetStream's "system temporarily unavailable",
// while a cluster elected its leader (rig, seed 7030).
func TestUnreachable(t *testing.T) {
	placed := func(why string) error {
		return &jetstream.APIError{Code: 400, ErrorCode: noPlace, Description: "no suitable peers for placement, " + why}
	}
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"no answer":                        {context.DeadlineExceeded, true},
		"nobody there":                     {nats.ErrNoResponders, true},
		"a cluster that elects its leader": {&jetstream.APIError{Code: 503, ErrorCode: noLeader}, true},
		"a server that isn't there yet":    {placed("peer offline"), true},
		"servers that are too small":       {placed("insufficient storage"), false},
		"servers with other tags":          {placed("tags not matched: [x]"), false},
		"a server without JetStream":       {&jetstream.APIError{Code: 503, ErrorCode: 10076}, false},
		"a disk that is full":              {&jetstream.APIError{Code: 503, ErrorCode: 10047}, false},
		"a stream that is another already": {&jetstream.APIError{Code: 400, ErrorCode: 10058}, false},
		"anything else":                    {errors.New("no"), false},
	} {
		if got := unreachable(fmt.Errorf("stream LANES: %w", test.err)); got != test.want {
			t.Errorf("%s: waited for is %t, want %t", name, got, test.want)
		}
	}
}
