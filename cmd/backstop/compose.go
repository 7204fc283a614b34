package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"backstop/cmd/backstop/admin"
	"backstop/cmd/backstop/metrics"
	"backstop/cmd/backstop/ops"
	"backstop/consumers"
	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/dispatcher/callback"
	"backstop/dispatcher/limit"
	"backstop/fallback"
	"backstop/streams"
	"backstop/streams/manifest"
	"backstop/streams/secrets"
)

// pipeline is the composed whole: what Run of each part needs, in one place.
type pipeline struct {
	events   *consumers.Pipeline
	attempts *consumers.AttemptLog
	keyring  *secrets.Keyring
	poster   *dispatcher.Poster
	measure  func(context.Context) error // keeps the metrics that have to be asked for
	broker   *broker
	log      *slog.Logger

	callbacks *admin.Callbacks
	fallback  fallback.Config
}

// newFallback returns what the fallbacks of calls work with, but for what the
// pipeline itself does for them.
func newFallback(ctx context.Context, b *broker, log *slog.Logger) (fallback.Config, error) {
	cache, err := b.js.KeyValue(ctx, streams.CacheBucket)
	if err != nil {
		return fallback.Config{}, err
	}
	pending, err := b.js.KeyValue(ctx, streams.PendingBucket)
	if err != nil {
		return fallback.Config{}, err
	}
	return fallback.Config{NATS: b.calls, Cache: fallback.NewCache(cache, log), Pendings: streams.NewPendings(pending), Log: log}, nil
}

// newPipeline makes the streams and composes the parts. Apps call back to
// publicBase. It tries until NATS answers or ctx ends; an error is one that
// trying again doesn't mend.
func newPipeline(ctx context.Context, cfg Config, b *broker, registry prometheus.Registerer, publicBase string, log *slog.Logger) (*pipeline, error) {
	topology := streams.NewTopology(b.js, streams.Settings{
		Replicas: int(cfg.Replicas), StoreBytes: b.storeBytes(), MaxMsgSize: maxMsgSize(b.nc.MaxPayload()),
		AllowedNetworks: cfg.AllowedNetworks.String(),
	})
	if err := b.untilReachable(ctx, log, "make the streams", topology.Ensure); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil { // with an external NATS nobody else makes it
		return nil, fmt.Errorf("BACKSTOP_DATA_DIR: %w", err)
	}
	key, err := secrets.LoadOrCreateKey(cfg.SecretsKeyFile)
	if err != nil {
		return nil, fmt.Errorf("BACKSTOP_SECRETS_KEY_FILE: %w", err)
	}
	found, err := openBuckets(ctx, b, key, log)
	if err != nil {
		return nil, err
	}
	p := &pipeline{
		attempts: consumers.NewAttemptLog(b.nc, log),
		keyring:  secrets.NewKeyring(key, found.secrets, log),
		poster:   dispatcher.NewPoster(dispatcher.PosterConfig{AllowedNetworks: cfg.AllowedNetworks, UserAgent: "Backstop/" + buildVersion()}),
		broker:   b,
		log:      log,
	}
	active := func(app string) []string { return p.keyring.Active(app, time.Now()) }
	p.callbacks = &admin.Callbacks{Issuer: callback.NewIssuer(key.Derive(callback.Purpose), callback.Validity), Secrets: active, Accept: found.callbacks.Accept}
	p.fallback = found.fallback
	record := p.attempts.Record
	if cfg.withoutAttempts {
		record = func(dispatcher.Call, dispatcher.Outcome) {}
	}
	counted := metrics.New(registry, metrics.Config{Endpoints: int(cfg.MetricsEndpoints), Version: buildVersion()})
	metrics.AttemptLog(registry, p.attempts.Dropped)
	metrics.Cache(registry, p.fallback.Cache.Stats)
	p.fallback.Tried = counted.Fallback
	p.measure = b.measure(found, cfg, counted, registry, log)
	transitions := consumers.NewTransitions()
	breakers, limits := breaker.NewSet(func(c breaker.Change) {
		counted.BreakerChanged(c)
		transitions.Push(c)
	}), limit.NewSet()
	counted.Windows(registry, limits.Held)
	parts := consumers.Config{
		JetStream: b.js, Calls: b.calls, Topology: topology,
		Deliver: dispatcher.Chain(p.poster.Post,
			dispatcher.Measure(counted.Attempts, record),
			dispatcher.Refuse(),
			dispatcher.Breaker(breakers),
			dispatcher.Limit(limits),
			dispatcher.Timeout(),
			dispatcher.Callback(p.callbacks.Issuer, publicBase),
			dispatcher.Sign(active),
		),
		Fallback: func(events *consumers.Pipeline) dispatcher.Stage {
			p.fallback.Queue, p.fallback.Observe = events.Enqueue, events.FallbackUsed
			return fallback.Stage(p.fallback)
		},
		Breakers: breakers, Limits: limits, Transitions: transitions,
		Manifests: manifest.NewStore(found.apps, log), Defaults: cfg.manifestDefaults(),
		Replica: cfg.ReplicaName, Version: buildVersion(), Log: log, Observer: counted,
		Health: consumers.HealthConfig{Interval: time.Duration(cfg.HealthInterval), Get: p.poster, Observe: counted.HealthCheck},
	}
	err = b.untilReachable(ctx, log, "open the buckets", func(ctx context.Context) (err error) {
		p.events, err = consumers.New(ctx, parts)
		return err
	})
	if err != nil {
		return nil, err
	}
	metrics.Watchers(registry, p.events.RollupLag, p.events.AlertsActive)
	return p, nil
}

// backend is what the HTTP API works on.
func (p *pipeline) backend(cfg Config) *admin.Backend {
	return &admin.Backend{
		Ops: ops.New(ops.Config{
			JetStream: p.broker.js, AllowedNetworks: cfg.AllowedNetworks, Log: p.log,
			Warn: func(text string) { p.log.Warn("an operator's request is done, with a flaw", "what", text) },
		}),
		Rollups: p.events.Rollups(), Defaults: cfg.manifestDefaults(),
	}
}

// buckets are what the pipeline opens before it is composed.
type buckets struct {
	secrets, apps, breakers, health jetstream.KeyValue
	callbacks                       *streams.Callbacks
	fallback                        fallback.Config
}

// openBuckets opens them, and makes the public key known; as newPipeline, it
// tries until NATS answers.
func openBuckets(ctx context.Context, b *broker, key *secrets.Key, log *slog.Logger) (found buckets, err error) {
	err = b.untilReachable(ctx, log, "open the buckets", func(ctx context.Context) (err error) {
		if found.secrets, err = b.js.KeyValue(ctx, streams.SecretsBucket); err != nil {
			return err
		}
		if err = secrets.Publish(ctx, found.secrets, key); err != nil {
			return err
		}
		if found.apps, err = b.js.KeyValue(ctx, streams.AppsBucket); err != nil {
			return err
		}
		if found.callbacks, err = streams.NewCallbacks(ctx, b.js); err != nil {
			return err
		}
		if found.breakers, err = b.js.KeyValue(ctx, streams.BreakersBucket); err != nil {
			return err
		}
		if found.health, err = b.js.KeyValue(ctx, streams.HealthBucket); err != nil {
			return err
		}
		found.fallback, err = newFallback(ctx, b, log)
		return err
	})
	return found, err
}

// run consumes until ctx ends and everything in flight is settled, and then
// stops what the last attempts needed. opened is called when the secrets of
// all apps are known, and ready when events are consumed.
func (p *pipeline) run(ctx context.Context, opened, ready func()) error {
	defer p.poster.Close()
	support, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, support := errgroup.WithContext(support)
	group.Go(func() error { return p.attempts.Run(support) })
	group.Go(func() error { return p.measure(support) })
	group.Go(func() error { return p.fallback.Cache.Run(support) })
	loaded := make(chan struct{})
	group.Go(func() error { return p.keyring.Run(support, func() { close(loaded) }) })

	select {
	case <-loaded:
		opened()
	case <-ctx.Done():
	case <-support.Done():
	}
	go func() { // ends with ctx at the latest, which ends before this method
		select {
		case <-p.events.Ready():
			ready()
		case <-ctx.Done():
		}
	}()
	err := p.events.Run(ctx)
	stop()
	err = errors.Join(err, group.Wait())
	// Acks are sent without waiting; the broker has them after this.
	if flush := p.broker.nc.FlushTimeout(5 * time.Second); flush != nil {
		p.log.Warn("the last acks may not have reached NATS; those events are delivered again", "error", flush)
	}
	return err
}
