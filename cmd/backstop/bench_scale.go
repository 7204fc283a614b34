package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"backstop/cmd/backstop/bench"
	"backstop/streams"
)

// scaleCharts are the pictures of docs/scaling.md, by the scenario that
// measures their points.
func scaleCharts() map[string][]bench.Chart {
	const endpoints = "endpoints, one for each app"
	return map[string][]bench.Chart{
		"endpoints": {
			{Name: "memory", Title: "Memory of serve, embedded server included", XLabel: endpoints, YLabel: "resident MiB", LogX: true, LogY: true},
			{Name: "times", Title: "Starting, and applying manifests", XLabel: endpoints, YLabel: "seconds", LogX: true, LogY: true},
			{Name: "idle", Title: "Doing nothing", XLabel: endpoints, YLabel: "% of a core", LogX: true},
			{Name: "way", Title: "From the publish to the arrival, 100 a second", XLabel: endpoints, YLabel: "milliseconds", LogX: true, LogY: true},
		},
		"sick": {
			{Name: "sick-way", Title: "The healthy endpoints, 100 a second to them", XLabel: "% of all endpoints that hang", YLabel: "ms from publish to arrival", LogY: true},
			{Name: "sick-rate", Title: "Deliveries to the healthy endpoints", XLabel: "% of all endpoints that hang", YLabel: "share of what it is with none"},
			{Name: "sick-cpu", Title: "CPU for deliveries to the healthy endpoints", XLabel: "% of all endpoints that hang", YLabel: "CPU seconds for 1,000"},
		},
		"payload": {
			{Name: "payload", Title: "Deliveries a second, next to a bare HTTP loop", XLabel: "bytes of payload", YLabel: "a second", LogX: true, LogY: true},
			{Name: "payload-cpu", Title: "CPU for deliveries, broker included", XLabel: "bytes of payload", YLabel: "CPU seconds for 1,000", LogX: true, LogY: true},
			{Name: "payload-way", Title: "From the publish to the arrival, 50 a second", XLabel: "bytes of payload", YLabel: "milliseconds", LogX: true, LogY: true},
		},
		"receivers": {
			{Name: "receivers", Title: "Eight apps that take their time, concurrency 32", XLabel: "milliseconds an answer takes", YLabel: "deliveries a second", LogX: true, LogY: true},
		},
		"replicas": {
			{Name: "replicas", Title: "Deliveries, on one machine of two cores", XLabel: "replicas of serve", YLabel: "share of a bare HTTP loop"},
			{Name: "replicas-cpu", Title: "CPU for deliveries, all replicas and nodes", XLabel: "replicas of serve", YLabel: "CPU seconds for 1,000"},
		},
	}
}

// scaleScenarios are the names of scaleCharts, in the order of measuring.
func scaleScenarios() []string {
	return []string{"endpoints", "sick", "payload", "receivers", "replicas"}
}

// point keeps a measured point, and says it.
func (r *benchRun) point(chart, series string, x, y float64) {
	p := bench.Point{Chart: chart, Series: series, X: x, Y: y, Load: loadAverage()}
	r.points = append(r.points, p)
	if r.say != nil {
		r.say("%-11s %-38s %10g %12.3f   (load %.1f)\n", chart, series, x, y, p.Load)
	}
}

// loadAverage is the machine's, of a minute; 0 where it can't be told.
func loadAverage() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// pointsFile holds the points that the pictures beside it are drawn from.
const pointsFile = "points.json"

// draw puts the points of this run in place of those of the same charts that
// the directory has, and draws all of them anew.
func (r *benchRun) draw(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // pictures for everybody
		return err
	}
	file := filepath.Join(dir, pointsFile)
	var points []bench.Point
	data, err := os.ReadFile(file) //nolint:gosec // in a directory that the user named
	if err == nil {
		err = json.Unmarshal(data, &points)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", file, err)
	}
	points = slices.DeleteFunc(points, func(p bench.Point) bool {
		return slices.ContainsFunc(r.points, func(fresh bench.Point) bool { return fresh.Chart == p.Chart })
	})
	points = append(points, r.points...)
	if data, err = json.MarshalIndent(points, "", " "); err != nil {
		return err
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil { //nolint:gosec // as above
		return err
	}
	for _, scenario := range scaleScenarios() {
		for _, chart := range scaleCharts()[scenario] {
			if !slices.ContainsFunc(points, func(p bench.Point) bool { return p.Chart == chart.Name }) {
				continue // never measured there
			}
			var svg strings.Builder
			if err := chart.WriteSVG(&svg, points); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "scale-"+chart.Name+".svg"), []byte(svg.String()), 0o644); err != nil { //nolint:gosec // as above
				return err
			}
		}
	}
	return nil
}

// endpoints looks at what many endpoints cost that have little to do: a process
// that has had them applied, and is then started once more.
func (r *benchRun) endpoints(ctx context.Context) error {
	for _, n := range []int{100, 1000, 10_000, 100_000} {
		if r.most > 0 && n > r.most {
			break
		}
		if err := r.manyEndpoints(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (r *benchRun) manyEndpoints(ctx context.Context, n int) error {
	const capabilities = 8
	dir, err := os.MkdirTemp("", "backstop-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	l, x := layout{dir: dir, sync: "1s", replicas: 1}, float64(n)
	var ids []streams.EndpointID
	err = r.apart(ctx, l, func(ctx context.Context, t bench.Target, p *processes) (err error) {
		began := time.Now()
		if ids, err = r.spread(ctx, t, "app", r.receiver.OK(), n, capabilities); err != nil {
			return err
		}
		r.point("times", "apply all, 16 at a time", x, time.Since(began).Seconds())
		return p.stop()
	})
	if err != nil {
		return err
	}
	return r.apart(ctx, l, func(ctx context.Context, t bench.Target, p *processes) error {
		used, err := p.cpu()
		if err != nil {
			return err
		}
		r.point("times", "start, until it consumes", x, p.started.Seconds())
		r.point("times", "start, CPU of it", x, used.Seconds())
		pause(ctx, 2*time.Second) // what starting left to do
		before, err := p.cpu()
		if err != nil {
			return err
		}
		began := time.Now()
		pause(ctx, 2*r.span)
		after, err := p.cpu()
		if err != nil {
			return err
		}
		r.point("idle", "CPU", x, 100*(after-before).Seconds()/time.Since(began).Seconds())
		resident, err := p.resident()
		if err != nil {
			return err
		}
		r.point("memory", "after a start", x, float64(resident)/(1<<20))
		tally, err := bench.Latency(ctx, t, r.receiver, ids, bench.Load{}, 100, r.span)
		if err != nil {
			return err
		}
		r.point("way", "p50", x, ms(tally.P50))
		r.point("way", "p99", x, ms(tally.P99))
		return nil
	})
}

// throughputOf is bench.Throughput with the CPU that all processes took for
// 1,000 deliveries, which says more than the rate on a machine with other work.
func (r *benchRun) throughputOf(ctx context.Context, t bench.Target, p *processes, to []streams.EndpointID, load bench.Load) (perSecond, cpuPer1000 float64, err error) {
	before, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	rate, err := bench.Throughput(ctx, t, r.receiver, to, load, r.span)
	if err != nil {
		return 0, 0, err
	}
	after, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	tally, err := r.receiver.Tally(ctx, false)
	return rate.PerSecond, (after - before).Seconds() / float64(max(tally.Count, 1)) * 1000, err
}

// sick measures the healthy endpoints beside more and more that hang and get
// as many events as all the healthy ones together. The shares are measured in
// turns, each round against its own quiet one.
func (r *benchRun) sick(ctx context.Context) error {
	const healthyOnes, perSecond = 10, 100
	for range r.rounds {
		var quiet float64
		for _, hangingOnes := range []int{0, 4, 10, 30, 90} {
			share := math.Round(100 * float64(hangingOnes) / float64(hangingOnes+healthyOnes))
			err := r.apart(ctx, layout{sync: "1s", replicas: 1}, func(ctx context.Context, t bench.Target, p *processes) error {
				healthy, err := r.spread(ctx, t, "ok", r.receiver.OK(), healthyOnes, 1)
				if err != nil {
					return err
				}
				hanging, err := r.spread(ctx, t, "hang", r.receiver.Hang(), hangingOnes, 1)
				if err != nil {
					return err
				}
				stop := r.publishBeside(ctx, t, hanging, perSecond)
				defer stop()
				pause(ctx, r.span) // until they are found out
				tally, err := bench.Latency(ctx, t, r.receiver, healthy, bench.Load{}, perSecond, r.span)
				if err != nil {
					return err
				}
				r.point("sick-way", "p50", share, ms(tally.P50))
				r.point("sick-way", "p99", share, ms(tally.P99))
				perSecond, cpu, err := r.throughputOf(ctx, t, p, healthy, bench.Load{})
				if err != nil {
					return err
				}
				if hangingOnes == 0 {
					quiet = perSecond
				}
				r.point("sick-rate", "deliveries", share, perSecond/quiet)
				r.point("sick-cpu", "serve, broker included", share, cpu)
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// publishBeside publishes to the endpoints in turn, at a steady rate, until
// stop is called.
func (r *benchRun) publishBeside(ctx context.Context, t bench.Target, to []streams.EndpointID, perSecond int) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if len(to) > 0 {
			bench.Publish(ctx, t, to, perSecond)
		}
	}()
	return func() { cancel(); <-done }
}

// payload measures events of several sizes, each next to a bare loop.
func (r *benchRun) payload(ctx context.Context) error {
	for range r.rounds {
		for _, size := range []int{100, 1 << 10, 16 << 10, 64 << 10, 256 << 10} {
			load, x := bench.Load{Size: size}, float64(size)
			err := r.apart(ctx, layout{sync: "1s", replicas: 1}, func(ctx context.Context, t bench.Target, p *processes) error {
				to, err := r.spread(ctx, t, "app", r.receiver.OK(), 8, 8)
				if err != nil {
					return err
				}
				tally, err := bench.Latency(ctx, t, r.receiver, to, load, 50, r.span)
				if err != nil {
					return err
				}
				r.point("payload-way", "p50", x, ms(tally.P50))
				r.point("payload-way", "p99", x, ms(tally.P99))
				bare := bench.Bare(ctx, r.receiver.OK()+"/bare", r.workers, size, r.span)
				r.point("payload", "bare HTTP loop", x, bare.PerSecond)
				perSecond, cpu, err := r.throughputOf(ctx, t, p, to, load)
				if err != nil {
					return err
				}
				r.point("payload", "Backstop, sync 1s", x, perSecond)
				r.point("payload-cpu", "serve, broker included", x, cpu)
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// receivers measures apps that take their time, next to what they could take
// at most: their concurrency, in each of their answers' time.
func (r *benchRun) receivers(ctx context.Context) error {
	const apps, concurrency = 8, 32 // the manifest's default
	for _, takes := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 5 * time.Second} {
		err := r.apart(ctx, layout{sync: "1s", replicas: 1}, func(ctx context.Context, t bench.Target, _ *processes) error {
			to, err := r.spread(ctx, t, "app", r.receiver.Slow(takes), apps, apps)
			if err != nil {
				return err
			}
			// The window doubles with each answer: from 8 to 32 in two.
			load := bench.Load{Warm: 4 * takes}
			rate, err := bench.Throughput(ctx, t, r.receiver, to, load, max(r.span, 3*takes))
			if err != nil {
				return err
			}
			x := float64(takes.Milliseconds())
			r.point("receivers", "measured", x, rate.PerSecond)
			r.point("receivers", "8 × 32 in flight at most", x, apps*concurrency/takes.Seconds())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replicas measures one to three processes of serve, on one node and on three,
// each next to a bare loop.
func (r *benchRun) replicas(ctx context.Context) error {
	for range r.rounds {
		for _, s := range []struct {
			series string
			l      layout
		}{
			{"one node, sync 1s", layout{sync: "1s"}},
			{"one node, sync always", layout{sync: "always"}},
			{"three nodes, sync 1s", layout{sync: "1s", nodes: 3}},
			{"three nodes, sync always", layout{sync: "always", nodes: 3}},
		} {
			for replicas := 1; replicas <= 3; replicas++ {
				s.l.replicas = replicas
				err := r.apart(ctx, s.l, func(ctx context.Context, t bench.Target, p *processes) error {
					to, err := r.spread(ctx, t, "app", r.receiver.OK(), 8, 8)
					if err != nil {
						return err
					}
					bare := bench.Bare(ctx, r.receiver.OK()+"/bare", r.workers, 0, r.span)
					perSecond, cpu, err := r.throughputOf(ctx, t, p, to, bench.Load{})
					if err != nil {
						return err
					}
					r.point("replicas", s.series, float64(replicas), perSecond/bare.PerSecond)
					r.point("replicas-cpu", s.series, float64(replicas), cpu)
					return nil
				})
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// applyAll declares the endpoints' apps, several at a time.
func applyAll(ctx context.Context, t bench.Target, url string, ids []streams.EndpointID) error {
	const atOnce = 16
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, id := range ids {
		group.Go(func() error { return t.Apply(ctx, id.App, url, true, id.Capability) })
	}
	return group.Wait()
}
