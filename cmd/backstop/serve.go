package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"backstop/cmd/backstop/admin"
	"backstop/cmd/backstop/metrics"
	"backstop/cmd/backstop/ops"
	"backstop/consumers"
	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/dispatcher/callback"
	"backstop/dispatcher/limit"
	"backstop/embedded"
	"backstop/fallback"
	"backstop/streams"
	"backstop/streams/manifest"
	"backstop/streams/secrets"
)

func newServeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the pipeline, with a NATS server of its own unless NATS_URL is set",
		Long: `Runs the pipeline until Ctrl-C or SIGTERM, and then lets attempts in flight
finish; a second signal ends it at once, and what was in flight is tried again
after the next start.

Settings come from the environment: backstop help settings`,
		Example: `  backstop serve
  BACKSTOP_ALLOWED_NETWORKS=127.0.0.0/8 backstop serve      # apps on this machine
  NATS_URL=nats://n1,nats://n2,nats://n3 BACKSTOP_REPLICAS=3 backstop serve`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.serveConfig()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, newLogger(cfg, a.err), nil)
		},
	}
}

// serve runs the pipeline until ctx ends. started is called with where it is
// reached once it consumes events; nil is fine.
func serve(ctx context.Context, cfg Config, log *slog.Logger, started func(running)) (err error) {
	// net/http writes bytes of an app's answer to the standard logger when they
	// come unasked, and has no hook for it. They may be anything.
	stdlog.SetOutput(io.Discard)
	web := &readiness{}
	var callbacks atomic.Pointer[admin.Callbacks]
	var backend atomic.Pointer[admin.Backend]
	registry := newRegistry()
	httpTLS, err := serverTLS("BACKSTOP_HTTP_CERT", cfg.HTTPCert, cfg.HTTPKey, log)
	if err != nil {
		return err
	}
	tokens, err := readTokens(cfg.TokensFile)
	if err != nil {
		return hint(err, "backstop help settings")
	}
	site, err := admin.Listen(ctx, admin.Config{
		Addr: string(cfg.HTTPAddr), TLS: httpTLS, Token: cfg.AdminToken, Tokens: tokens, PublicURL: string(cfg.PublicURL), Hosts: cfg.HTTPHosts,
		Metrics: registry, Healthy: web.healthy, Ready: web.ready, Log: log,
		Callbacks: callbacks.Load, CountCallbacks: metrics.Callbacks(registry), Backend: backend.Load,
	})
	if err != nil {
		return err
	}
	// The broker outlives everything that uses it, and is closed last.
	b, err := openBroker(ctx, cfg, log)
	if err != nil {
		return errors.Join(err, site.Close())
	}
	defer func() { b.close(log) }()
	web.broker.Store(b)
	metrics.Connection(registry, b.nc)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return site.Run(ctx) })
	group.Go(func() error {
		p, err := newPipeline(ctx, cfg, b, registry, cfg.PublicBase(site.Addr()), log)
		if err != nil {
			return err
		}
		backend.Store(p.backend(cfg))
		return p.run(ctx, func() { callbacks.Store(p.callbacks) }, func() {
			web.started.Store(true)
			log.Info("ready", "nats", b.url, "http", site.URL(), "version", buildVersion())
			if started != nil {
				started(running{NATS: b.url, HTTP: site.URL()})
			}
		})
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("stopped")
	return nil
}

// running is where a pipeline is reached.
type running struct{ NATS, HTTP string }

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
		Replicas: int(cfg.Replicas), StoreBytes: b.storeBytes(), MaxMsgSize: b.maxMsgSize(),
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
	err = b.untilReachable(ctx, log, "open the buckets", func(context.Context) (err error) { // see openBuckets
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
// tries until NATS answers. It leaves each request JetStream's own timeout: with
// the deadline of the whole, one that went down with a server was waited for
// for 20 s.
func openBuckets(ctx context.Context, b *broker, key *secrets.Key, log *slog.Logger) (found buckets, err error) {
	err = b.untilReachable(ctx, log, "open the buckets", func(context.Context) (err error) {
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

func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// broker is the NATS that the pipeline runs on: our own, or an external one.
type broker struct {
	embedded *embedded.Server // nil for an external one
	nc       *nats.Conn
	calls    *nats.Conn // of its own, so that no call queues behind events
	js       jetstream.JetStream
	url      string
}

// pipelineRequestTimeout bounds what the pipeline asks of JetStream, but for
// publishes. Short, because whatever asks asks again, and a request that went
// down with a broker is never answered: an event waits for no longer than that.
const pipelineRequestTimeout = 4 * time.Second

// openBroker starts the embedded server, or connects to an external NATS,
// for which it waits as long as it takes: a pipeline that is started before
// its NATS is no error.
func openBroker(ctx context.Context, cfg Config, log *slog.Logger) (*broker, error) {
	options, err := connectOptions(cfg)
	if err != nil {
		return nil, err
	}
	options = append(options,
		nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.IgnoreAuthErrorAbort(), nats.ReconnectWait(500*time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("lost the connection to NATS; events wait until it is back", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("connected to NATS again", "url", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			log.Warn("NATS reports an error", "error", err)
		}),
	)
	b := &broker{}
	connect := func() (*nats.Conn, error) { return nats.Connect(cfg.NATSURL, append(options, tlsOptions(cfg)...)...) }
	if cfg.NATSURL == "" {
		makeRoomForSyncs(cfg)
		if err := b.embed(ctx, cfg, log); err != nil {
			return nil, err
		}
		connect = func() (*nats.Conn, error) { return b.embedded.Connect(options...) }
	} else {
		b.url = redact(cfg.NATSURL)
	}
	if b.nc, err = connect(); err == nil {
		b.calls, err = connect()
	}
	if err != nil {
		b.close(log)
		return nil, err
	}
	b.js, err = jetstream.New(b.nc, jetstream.WithDefaultTimeout(pipelineRequestTimeout))
	if err != nil {
		b.close(log)
		return nil, err
	}
	return b, nil
}

// syncProcs is how many of Go's processors are added for goroutines that wait
// for the disk. A processor that is in fsync is only handed on when the runtime
// notices, and with sync always the embedded server keeps several there: on two
// cores, six processors delivered 7,000 events a second over eight capabilities
// where two delivered 4,500.
const syncProcs = 4

// makeRoomForSyncs adds syncProcs, unless GOMAXPROCS says otherwise.
func makeRoomForSyncs(cfg Config) {
	if cfg.Sync == embedded.SyncAlways && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.NumCPU() + syncProcs)
	}
}

func (b *broker) embed(ctx context.Context, cfg Config, log *slog.Logger) (err error) {
	tlsConfig, err := serverTLS("BACKSTOP_NATS_CERT", cfg.EmbeddedCert, cfg.EmbeddedKey, log)
	if err != nil {
		return err
	}
	b.embedded, err = embedded.Start(ctx, embedded.Config{
		DataDir: cfg.DataDir, Addr: string(cfg.EmbeddedAddr), Token: cfg.EmbeddedToken, TLS: tlsConfig,
		Sync: string(cfg.Sync), StoreMax: int64(cfg.StoreMax), Logger: log,
	})
	if err != nil {
		return err
	}
	if b.url = b.embedded.ClientURL(); b.url == "" {
		b.url = "in-process"
	}
	return nil
}

func (b *broker) storeBytes() int64 {
	if b.embedded == nil {
		return 0
	}
	return b.embedded.StoreMax()
}

// maxMsgSize leaves a dead letter room for its headers below max_payload.
func (b *broker) maxMsgSize() int32 {
	return int32(min(max(b.nc.MaxPayload()-64<<10, 64<<10), 1<<20))
}

// untilReachable runs do until it succeeds, as long as what fails is the
// connection; anything else is returned at once.
func (b *broker) untilReachable(ctx context.Context, log *slog.Logger, what string, do func(context.Context) error) error {
	for {
		if err := b.untilConnected(ctx, log); err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, 2*requestTimeout)
		err := do(attempt)
		cancel()
		switch {
		case err == nil, ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case b.nc.IsConnected() && !unreachable(err):
			return fmt.Errorf("can't %s: %w", what, err)
		}
		log.Warn("NATS can't be used yet, trying again", "url", b.url, "what", what, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// untilConnected waits for the connection, and says so at once and then every
// ten seconds.
func (b *broker) untilConnected(ctx context.Context, log *slog.Logger) error {
	const look, tell = 100 * time.Millisecond, 10 * time.Second
	var told time.Time
	for !b.nc.IsConnected() {
		if now := time.Now(); now.Sub(told) >= tell {
			log.Warn("NATS can't be reached yet, waiting for it", "url", b.url, "error", b.nc.LastError())
			told = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
	}
	return nil
}

func unreachable(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed)
}

// close ends the connection and then the embedded server.
func (b *broker) close(log *slog.Logger) {
	for _, nc := range []*nats.Conn{b.calls, b.nc} {
		if nc != nil {
			nc.Close()
		}
	}
	if b.embedded != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		b.embedded.Shutdown(ctx)
		log.Debug("the embedded NATS server has stopped")
	}
}
