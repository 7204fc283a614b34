//go:build e2e

package ledger

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The long run: two replicas on one nats-server, traffic that does not end, and
// something done to them all the time. The first replica is never killed, so
// that what grows in a process has the time to show.
const (
	longGap      = 400 * time.Millisecond // between events of one publisher, about: 10 a second
	longCalm     = 30 * time.Second       // between two faults, about
	longOperate  = 5 * time.Minute        // between two rounds of an operator's commands
	longSample   = 5 * time.Second        // between two looks at what processes hold
	longMostMore = 0.15                   // how much more of it the last third may show than the second
)

// sample is what the processes held at one time.
type sample struct {
	at     time.Time
	serve  usage
	broker int64 // bytes resident
}

// longPlan draws what is done in so much time.
func longPlan(seed uint64, long time.Duration) plan {
	random := rand.New(rand.NewPCG(seed, 11))
	p := plan{world: singleWorld, replicas: 2, commands: make([]string, 4), gap: longGap}
	points := servePoints()
	for at := longCalm; at < long-longCalm; at += time.Duration((0.5 + random.Float64()) * float64(longCalm)) {
		b := blow{at: at, what: []string{"kill", "kill", "stop", "terminate", "kill nats", "stop first"}[random.IntN(6)], who: 1, long: time.Second}
		switch b.what {
		case "kill", "terminate":
			b.arm = fmt.Sprintf("%s:%d", points[random.IntN(len(points))], 1+random.IntN(20))
		case "stop first":
			b.what, b.who, b.long = "stop", 0, 6*time.Second
		case "stop":
			b.long = 6 * time.Second
		}
		p.blows = append(p.blows, b)
	}
	return p
}

// TestLong is `make longrun`: LONG (1h) of traffic with faults. LONG_SAMPLES
// names a file that gets what the processes held, in CSV.
func TestLong(t *testing.T) {
	long, err := time.ParseDuration(os.Getenv("LONG"))
	if err != nil {
		t.Skipf("LONG says for how long, as 1h (%v)", err)
	}
	seed := number(t, "FAULTS_SEED", uint64(time.Now().Unix()))
	ctx, cancel := context.WithTimeout(t.Context(), long+15*time.Minute)
	t.Cleanup(cancel)
	w := newWorld(t, ctx, rigBinaries(t, ctx), seed, longPlan(seed, long), "BACKSTOP_STORE_MAX=4GiB")
	w.applyAll()
	began := time.Now()
	busy, stop := context.WithTimeout(ctx, long)
	defer stop()
	var all sync.WaitGroup
	var samples []sample
	all.Go(func() { w.traffic(busy, math.MaxInt, math.MaxInt) })
	all.Go(w.strike)
	all.Go(func() { samples = w.look(busy) })
	all.Go(func() {
		for pause(busy, longOperate); busy.Err() == nil; pause(busy, longOperate) {
			w.operate()
		}
	})
	all.Wait()
	w.decide()
	if n := w.replicas[0].starts.Load(); n != 1 {
		t.Errorf("the replica that is never killed was started %d times", n)
	}
	b := w.audit()
	for _, problem := range b.problems {
		t.Error(problem)
	}
	thirds(t, samples)
	if name := os.Getenv("LONG_SAMPLES"); name != "" {
		w.must(os.WriteFile(name, table(began, samples), 0o600))
	}
	t.Logf("seed %d, %v: %s", seed, time.Since(began).Round(time.Second), b)
	for _, f := range b.faults {
		t.Logf("%s %s %v", clock(f.from), f.what, f.to.Sub(f.from).Round(time.Millisecond))
	}
}

// look samples the first replica and the server until ctx ends.
func (w *world) look(ctx context.Context) (all []sample) {
	for ; ctx.Err() == nil; pause(ctx, longSample) {
		one := sample{at: time.Now()}
		var err error
		if one.serve, err = w.replicas[0].use(); err != nil {
			continue // it is stopped
		}
		if one.broker, err = resident(w.nodes[0].pid()); err == nil {
			all = append(all, one)
		}
	}
	return all
}

// thirds compares the median of the last third with that of the second; in the
// first, caches fill. NATS is killed again and again and has its say in the
// record only.
func thirds(t *testing.T, samples []sample) {
	t.Helper()
	n := len(samples) / 3
	if n < 10 {
		t.Errorf("%d samples are too few to say whether something grows", len(samples))
		return
	}
	for _, kind := range []struct {
		what  string
		value func(sample) float64
		slack float64
	}{
		{"bytes resident", func(s sample) float64 { return float64(s.serve.memory) }, 8 << 20},
		{"descriptors", func(s sample) float64 { return float64(s.serve.descriptors) }, 5},
		{"goroutines", func(s sample) float64 { return float64(s.serve.goroutines) }, 20},
	} {
		median := func(part []sample) float64 {
			var values []float64
			for _, s := range part {
				values = append(values, kind.value(s))
			}
			slices.Sort(values)
			return values[len(values)/2]
		}
		first, second, third := median(samples[:n]), median(samples[n:2*n]), median(samples[2*n:])
		t.Logf("%s: medians of the thirds %.0f, %.0f, %.0f", kind.what, first, second, third)
		if third > second*(1+longMostMore)+kind.slack {
			t.Errorf("%s grow: %.0f in the second third, %.0f in the last", kind.what, second, third)
		}
	}
}

// table is the record for a spreadsheet.
func table(began time.Time, samples []sample) []byte {
	var text strings.Builder
	text.WriteString("seconds,serve_bytes,serve_descriptors,serve_goroutines,nats_bytes\n")
	for _, s := range samples {
		fmt.Fprintf(&text, "%.0f,%d,%d,%d,%d\n", s.at.Sub(began).Seconds(), s.serve.memory, s.serve.descriptors, s.serve.goroutines, s.broker)
	}
	return []byte(text.String())
}

// resident is how many bytes of memory a process holds.
func resident(pid int) (int64, error) {
	statm, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "statm"))
	if err != nil {
		return 0, err
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(statm), &size, &pages); err != nil {
		return 0, err
	}
	return pages * int64(os.Getpagesize()), nil
}
