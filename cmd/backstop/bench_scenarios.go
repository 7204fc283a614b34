package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"backstop/cmd/backstop/bench"
	"backstop/streams"
)

// spread declares apps, one endpoint each, with the capabilities dealt out in
// turn, and returns them once they can be published to.
func (r *benchRun) spread(ctx context.Context, t bench.Target, prefix, url string, apps, capabilities int) ([]streams.EndpointID, error) {
	ids := make([]streams.EndpointID, apps)
	for i := range ids {
		ids[i] = streams.EndpointID{Capability: fmt.Sprintf("capability%d", i%capabilities), App: prefix + strconv.Itoa(i)}
	}
	if err := applyAll(ctx, t, url, ids); err != nil {
		return nil, err
	}
	publisher := streams.NewPublisher(t.JS)
	for _, id := range ids[:min(capabilities, len(ids))] {
		for {
			_, err := publisher.Publish(ctx, id, "", bench.Payload(time.Now()))
			if err == nil {
				break
			}
			if !errors.Is(err, streams.ErrNoStream) {
				return nil, err
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return ids, nil
}

func (r *benchRun) throughput(ctx context.Context) error {
	bare := bench.Bare(ctx, r.receiver.OK()+"/bare", r.workers, 0, r.span)
	r.add(benchRow{Scenario: "throughput", What: "bare HTTP loop", Rate: &bare})
	for _, s := range []struct {
		sync         string
		capabilities int
		load         bench.Load
	}{
		{"always", 8, bench.Load{}},
		// One stream syncs 4,200 single events a second at most.
		{"always", 1, bench.Load{Batch: 500}},
		{"1s", 8, bench.Load{}},
		{"1s", 1, bench.Load{}},
	} {
		err := r.within(ctx, s.sync, func(ctx context.Context, t bench.Target) error {
			to, err := r.spread(ctx, t, "app", r.receiver.OK(), s.capabilities, s.capabilities)
			if err != nil {
				return err
			}
			rate, err := bench.Throughput(ctx, t, r.receiver, to, s.load, r.span)
			r.add(benchRow{Scenario: "throughput", What: fmt.Sprintf("Backstop, sync %s, %d capabilities", s.sync, s.capabilities), Rate: &rate, Ratio: rate.PerSecond / bare.PerSecond})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *benchRun) latency(ctx context.Context) error {
	const perSecond = 200
	if _, err := r.receiver.Tally(ctx, true); err != nil {
		return err
	}
	bench.BarePaced(ctx, r.receiver.OK()+"/bare", perSecond, r.span)
	bare, err := r.receiver.Tally(ctx, true)
	if err != nil {
		return err
	}
	r.add(benchRow{Scenario: "latency", What: "bare HTTP at 200/s", Tally: &bare})
	for _, sync := range []string{"always", "1s"} {
		err := r.within(ctx, sync, func(ctx context.Context, t bench.Target) error {
			to, err := r.spread(ctx, t, "app", r.receiver.OK(), 8, 8)
			if err != nil {
				return err
			}
			tally, err := bench.Latency(ctx, t, r.receiver, to, bench.Load{}, perSecond, r.span)
			r.add(benchRow{Scenario: "latency", What: "Backstop at 200/s, sync " + sync, Tally: &tally, Ratio: float64(tally.P99) / float64(bare.P99)})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// isolation publishes 250 events a second, evenly over all endpoints; the
// receiver counts those of the healthy ones only, since the others never get
// an answer.
func (r *benchRun) isolation(ctx context.Context) error {
	const perSecond = 250
	var quiet time.Duration
	for _, s := range []struct{ healthy, hanging int }{{10, 0}, {9, 1}, {100, 0}, {10, 90}} {
		err := r.within(ctx, "always", func(ctx context.Context, t bench.Target) error {
			healthy, err := r.spread(ctx, t, "ok", r.receiver.OK(), s.healthy, 1)
			if err != nil {
				return err
			}
			hanging, err := r.spread(ctx, t, "hang", r.receiver.Hang(), s.hanging, 1)
			if err != nil {
				return err
			}
			tally, err := bench.Latency(ctx, t, r.receiver, append(healthy, hanging...), bench.Load{}, perSecond, 3*r.span)
			row := benchRow{Scenario: "isolation", What: fmt.Sprintf("healthy ones, %d of %d endpoints hang", s.hanging, s.healthy+s.hanging), Tally: &tally}
			if s.hanging == 0 {
				quiet = tally.P99
			} else {
				row.Ratio = float64(tally.P99) / float64(quiet)
			}
			r.add(row)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// idle applies many apps and looks at what they cost when nothing happens. The
// memory of the process counts whole; what it takes without apps comes first.
func (r *benchRun) idle(ctx context.Context) error {
	for _, n := range []int{0, 1000, 10_000} {
		err := r.within(ctx, "1s", func(ctx context.Context, t bench.Target) error {
			if _, err := r.spread(ctx, t, "app", r.receiver.OK(), n, 8); err != nil {
				return err
			}
			pause(ctx, 10*time.Second) // what applying left to do
			before, began := bench.CPUTime(), time.Now()
			pause(ctx, 2*r.span)
			share := (bench.CPUTime() - before).Seconds() / time.Since(began).Seconds()
			rss, err := residentBytes(os.Getpid())
			r.add(benchRow{Scenario: "idle", What: fmt.Sprintf("%d endpoints applied", n), RSSBytes: rss, CPUShare: share})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// residentBytes is a process's resident memory, as Linux tells it.
func residentBytes(pid int) (int64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm can't be read", pid)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
