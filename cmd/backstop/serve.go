package main

import (
	"context"
	"errors"
	"io"
	stdlog "log"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"backstop/cmd/backstop/admin"
	"backstop/cmd/backstop/metrics"
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
	group.Go(func() error { return b.untilLost(ctx) })
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

func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}
