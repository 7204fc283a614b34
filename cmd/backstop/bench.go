package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/bench"
	"backstop/streams"
	"backstop/streams/manifest"
	"backstop/streams/secrets"
)

func newBenchCommand(a *app) *cobra.Command {
	var (
		span     time.Duration
		workers  int
		asJSON   bool
		receiver bool
		profile  string
		charts   string
		r        = &benchRun{app: a}
	)
	cmd := &cobra.Command{
		Use:   "bench [SCENARIO…]",
		Short: "Measure this build on this machine, next to a bare HTTP loop",
		Long: `Runs a pipeline of its own in a temporary directory, with signing, breakers,
limits, metrics and the delivery log on, against a receiver in another process,
and measures deliveries a second and CPU (throughput), the way of single events
(latency), what hanging endpoints cost the healthy ones (isolation), what idle
endpoints cost (idle), and what a call takes (calls); log, only when it is named,
compares throughput with and without the delivery log. Scale scenarios, also only
when they are named, vary one number each, with processes of their own: endpoints,
sick (how many of them hang), payload, receivers (how long an answer takes), and
replicas (of serve, on one NATS node and on three). Each figure stands next to that of
a bare HTTP loop of the same run; compare those ratios, not runs.`,
		Example: `  backstop bench
  backstop bench throughput latency --span 10s
  backstop bench calls
  backstop bench --json > before.json
  backstop bench endpoints --endpoints 10000 --charts /tmp/charts`,
		ValidArgs: benchScenarios(),
		Args: func(_ *cobra.Command, args []string) error {
			for _, name := range args {
				if !slices.Contains(benchScenarios(), name) {
					return fmt.Errorf("there is no scenario %q; there are %s", name, strings.Join(benchScenarios(), ", "))
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, only []string) error {
			if receiver {
				return bench.Receive(cmd.Context(), a.in, a.out)
			}
			r.span, r.workers, r.only = span, workers, only
			if !asJSON {
				r.say = func(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }
			}
			if profile != "" {
				stop, err := startProfile(profile)
				if err != nil {
					return err
				}
				defer stop()
			}
			err := r.run(cmd.Context())
			if charts != "" && len(r.points) > 0 { // what was measured before an error is worth keeping
				err = errors.Join(err, r.draw(charts))
			}
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(a.out)
				e.SetIndent("", "  ")
				if len(r.points) > 0 {
					return e.Encode(r.points)
				}
				return e.Encode(r.rows)
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&span, "span", 5*time.Second, "how long each measurement takes")
	cmd.Flags().IntVar(&workers, "workers", 64, "connections of the bare HTTP loop")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&profile, "cpuprofile", "", "write a CPU profile to this file")
	cmd.Flags().StringVar(&charts, "charts", "", "draw what scale scenarios measure into this directory")
	cmd.Flags().IntVar(&r.rounds, "rounds", 2, "how often sick, payload and replicas are measured, in turns")
	cmd.Flags().IntVar(&r.most, "endpoints", 0, "most endpoints that the scenario endpoints goes to; 0 for 100,000")
	cmd.Flags().StringVar(&r.natsServer, "nats-server", "nats-server", "the program that the scenario replicas starts three of")
	cmd.Flags().BoolVar(&receiver, "receiver", false, "be the receiving process")
	_ = cmd.Flags().MarkHidden("receiver")
	return cmd
}

// startProfile profiles this process until stop is called.
func startProfile(file string) (stop func(), err error) {
	f, err := os.Create(file) //nolint:gosec // a file that the user named
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}

// benchScenarios are what can be measured, in the order of measuring.
func benchScenarios() []string {
	return append([]string{"throughput", "latency", "isolation", "idle", "calls", "log"}, scaleScenarios()...)
}

// benchRow is one measurement.
type benchRow struct {
	Scenario string `json:"scenario"`
	What     string `json:"what"`
	*bench.Rate
	*bench.Tally
	// Ratio is the throughput's share of the bare loop's, or the p99's
	// multiple of the bare (or quiet) one's.
	Ratio    float64 `json:"ratio,omitempty"`
	RSSBytes int64   `json:"rssBytes,omitempty"`
	CPUShare float64 `json:"cpuShare,omitempty"`
}

type benchRun struct {
	app     *app
	span    time.Duration
	workers int
	only    []string
	say     func(format string, args ...any)
	rows    []benchRow

	// What scale scenarios need, and what they measure.
	rounds     int
	most       int
	natsServer string
	points     []bench.Point

	receiver *bench.Receiver
}

func (r *benchRun) wants(scenario string) bool {
	named := scenario == "log" || slices.Contains(scaleScenarios(), scenario)
	return len(r.only) == 0 && !named || slices.Contains(r.only, scenario)
}

func (r *benchRun) add(row benchRow) {
	r.rows = append(r.rows, row)
	if r.say == nil {
		return
	}
	r.say("%-11s %-38s", row.Scenario, row.What)
	switch {
	case row.Rate != nil:
		r.say(" %8.0f/s  %.3f CPU-s per 1,000", row.PerSecond, row.CPUPer1000)
	case row.Tally != nil:
		r.say(" p50 %6.2f  p95 %6.2f  p99 %7.2f ms  (%d)", ms(row.P50), ms(row.P95), ms(row.P99), row.Count)
	default:
		r.say(" %6.0f MiB  %.2f%% of a core", float64(row.RSSBytes)/(1<<20), 100*row.CPUShare)
	}
	if row.Ratio > 0 {
		r.say("  ×%.2f", row.Ratio)
	}
	r.say("\n")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *benchRun) run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if r.receiver, err = bench.StartReceiver(ctx, self, "bench", "--receiver"); err != nil {
		return err
	}
	defer r.receiver.Close()
	if r.say != nil {
		r.say("%s, %d cores, 1 KB of JSON, receiver in another process, %v each\n", runtime.Version(), runtime.GOMAXPROCS(0), r.span)
	}
	for _, s := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"throughput", r.throughput},
		{"latency", r.latency},
		{"isolation", r.isolation},
		{"idle", r.idle},
		{"calls", r.calls},
		{"log", r.deliveryLog},
		{"endpoints", r.endpoints},
		{"sick", r.sick},
		{"payload", r.payload},
		{"receivers", r.receivers},
		{"replicas", r.replicas},
	} {
		if r.wants(s.name) {
			if err := s.run(ctx); err != nil {
				return fmt.Errorf("bench %s: %w", s.name, err)
			}
		}
	}
	return nil
}

// within runs do beside a pipeline of its own, which is gone afterwards.
func (r *benchRun) within(ctx context.Context, sync string, do func(context.Context, bench.Target) error, change ...func(*Config)) error {
	dir, err := os.MkdirTemp("", "backstop-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cfg := defaultConfig()
	cfg.DataDir, cfg.SecretsKeyFile, cfg.ReplicaName = dir, filepath.Join(dir, "secrets.key"), "bench"
	cfg.EmbeddedAddr, cfg.HTTPAddr, cfg.Sync = "127.0.0.1:0", "127.0.0.1:0", syncMode(sync)
	cfg.AllowedNetworks = networks{netip.MustParsePrefix("127.0.0.0/8")}
	for _, c := range change {
		c(&cfg)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up, done := make(chan running, 1), make(chan error, 1)
	log := slog.New(slog.NewTextHandler(r.app.err, &slog.HandlerOptions{Level: slog.LevelError}))
	go func() { done <- serve(ctx, cfg, log, func(at running) { up <- at }) }()
	var at running
	select {
	case err := <-done:
		return err
	case at = <-up:
	}
	clientCfg := cfg
	clientCfg.NATSURL = at.NATS
	c, err := connect(clientCfg)
	if err != nil {
		cancel()
		return errors.Join(err, <-done)
	}
	target, err := c.benchTarget(ctx)
	if err == nil {
		err = do(ctx, target)
	}
	c.nc.Close()
	cancel()
	return errors.Join(err, <-done)
}

// benchConcurrency is as many calls as a scenario makes at once; more would be
// refused.
const benchConcurrency = 64

// benchApply returns what declares an app, with a secret.
func (c *client) benchApply(ctx context.Context) (func(ctx context.Context, app, baseURL string, async bool, capabilities ...string) error, error) {
	sealed, err := c.js.KeyValue(ctx, streams.SecretsBucket)
	if err != nil {
		return nil, err
	}
	apps, err := c.js.KeyValue(ctx, streams.AppsBucket)
	if err != nil {
		return nil, err
	}
	keep, manifests := secrets.NewStore(sealed), manifest.NewStore(apps, slog.New(slog.DiscardHandler))
	return func(ctx context.Context, app, baseURL string, async bool, capabilities ...string) error {
		if err := keep.Set(ctx, app, secrets.Generate()); err != nil {
			return err
		}
		hooks := map[string]any{}
		for _, name := range capabilities {
			hook := map[string]any{"path": "/" + app, "async": async}
			if !async {
				hook["concurrency"] = benchConcurrency
			}
			hooks[name] = hook
		}
		data, err := json.Marshal(map[string]any{"appId": app, "name": app, "baseUrl": baseURL, "webhooks": hooks})
		if err != nil {
			return err
		}
		m, err := manifest.Parse(data, manifest.Options{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
		if err != nil {
			return err
		}
		_, _, err = manifests.Put(ctx, m, nil)
		return err
	}, nil
}

// benchTarget is a running Backstop, as a scenario sees it.
func (c *client) benchTarget(ctx context.Context) (bench.Target, error) {
	apply, err := c.benchApply(ctx)
	return bench.Target{NC: c.nc, JS: c.js, Apply: apply}, err
}
