//go:build e2e

package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"backstop/streams/killpoint"
)

// rigBinaries builds what a run is made of, with dials.
func rigBinaries(t *testing.T, ctx context.Context) (backstop string) {
	t.Helper()
	return rigBinariesWith(t, ctx, "-overlay", overlay(t, ctx))
}

// rigBinariesWith builds it with the given flags. Without an overlay most is
// compiled already, as the tests use the same.
func rigBinariesWith(t *testing.T, ctx context.Context, flags ...string) (backstop string) {
	t.Helper()
	natsServer = filepath.Join(t.TempDir(), "nats-server")
	args := append(append([]string{"build"}, flags...), "-o", natsServer, "github.com/nats-io/nats-server/v2")
	if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return build(t, ctx, "faults", flags...)
}

// runTimeout bounds one run, ample for a machine that is busy with others.
const runTimeout = 10 * time.Minute

// oneRun does what the seed stands for, and returns the books.
func oneRun(t *testing.T, binary string, seed uint64, p plan, env ...string) (*world, *books) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	t.Cleanup(cancel)
	w := newWorld(t, ctx, binary, seed, p, env...)
	w.applyAll()
	var all sync.WaitGroup
	all.Go(func() { w.traffic(ctx, faultEvents, faultCalls) })
	all.Go(w.operate)
	all.Go(w.strike)
	all.Wait()
	w.decide()
	return w, w.audit()
}

// TestE2EEveryPointKills: each named point is really come past, and being
// killed there costs nothing.
func TestE2EEveryPointKills(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	w := newWorld(t, ctx, rigBinariesWith(t, ctx), uint64(time.Now().Unix()), plan{world: embeddedWorld, replicas: 1})
	w.applyAll()
	busy, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { w.traffic(busy, math.MaxInt, math.MaxInt) })
	all.Go(func() {
		for busy.Err() == nil {
			w.decide()
			pause(busy, 300*time.Millisecond)
		}
	})
	for _, p := range killpoint.Points() {
		arm := string(p) + ":1"
		// A command that found nobody would be tried again, unarmed.
		for byCommands(p) && ctx.Err() == nil && !w.replicas[0].ready() {
			pause(ctx, 50*time.Millisecond)
		}
		switch p {
		case killpoint.SecretStored, killpoint.ManifestStored:
			w.apply("ok-3", "BACKSTOP_KILL="+arm)
		case killpoint.DeadLetterDecided:
			w.awaitLetters(replayedApp)
			w.persist([]string{"BACKSTOP_KILL=" + arm}, "dlq", "replay", "--app", replayedApp, "--force")
		default:
			w.replicas[0].killWith(arm)
		}
		for began := time.Now(); ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
			if _, killedAt := w.visited(); killedAt[string(p)] > 0 {
				t.Logf("%s killed after %v", p, time.Since(began).Round(time.Millisecond))
				break
			}
			if p == killpoint.Draining && w.replicas[0].ready() {
				w.replicas[0].signal(syscall.SIGTERM)
			}
			if time.Since(began) > time.Minute {
				t.Errorf("nothing came past the point %s within a minute", p)
				break
			}
		}
	}
	stop()
	all.Wait()
	w.decide()
	b := w.audit()
	for _, problem := range b.problems {
		t.Error(problem)
	}
	t.Log(b)
}

// TestE2EBrokenBuildsAreCaught: a build that makes a mistake on purpose doesn't
// pass for a good one.
func TestE2EBrokenBuildsAreCaught(t *testing.T) {
	binary := rigBinariesWith(t, t.Context())
	for mistake, want := range map[killpoint.Mistake]string{
		killpoint.AckFirst:       "LOST",
		killpoint.AckBeforeStore: "LOST",
		killpoint.Unstable:       "another payload",
		killpoint.Impatient:      "after the one before, want at least",
	} {
		t.Run(string(mistake), func(t *testing.T) {
			p := plan{world: singleWorld, replicas: 2, arms: []string{"answered:50", "letter_stored:5"}, commands: make([]string, 4)}
			for i := range 3 {
				p.blows = append(p.blows, blow{at: time.Duration(1+i) * time.Second, what: "kill", who: i % 2, arm: []string{"letter_stored:5", "request_sent:20"}[i%2]})
			}
			w, b := oneRun(t, binary, 1, p, "BACKSTOP_BROKEN="+string(mistake))
			w.end()
			found := 0
			for _, problem := range b.problems {
				if strings.Contains(problem, want) {
					found++
				}
			}
			if found == 0 {
				t.Errorf("nobody noticed; found was %q", b.problems)
			}
			t.Logf("%d problems, of which %d say %q", len(b.problems), found, want)
		})
	}
}

// outcome is a line of the report.
type outcome struct {
	Seed     uint64         `json:"seed"`
	World    string         `json:"world"`
	Plan     string         `json:"plan"`
	Took     string         `json:"took"`
	Faults   []string       `json:"faults"`
	Counts   string         `json:"counts"`
	Killed   map[string]int `json:"killedAt,omitempty"`
	Visited  map[string]int `json:"visited"`
	Problems []string       `json:"problems,omitempty"`
}

func report(seed uint64, began time.Time, w *world, b *books) outcome {
	o := outcome{Seed: seed, World: string(w.plan.world), Plan: w.plan.String(), Took: time.Since(began).Round(time.Second).String(), Counts: b.String(), Problems: b.problems}
	for _, f := range b.faults {
		o.Faults = append(o.Faults, fmt.Sprintf("%s %s %v", clock(f.from), f.what, f.to.Sub(f.from).Round(time.Millisecond)))
	}
	o.Visited, o.Killed = w.visited()
	return o
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestFaults is `make faults`: FAULTS_RUNS runs from the seed FAULTS_SEED on,
// FAULTS_PARALLEL at once, all or those of the world FAULTS_WORLD. FAULTS_REPORT names a file that gets a line of JSON
// for each.
func TestFaults(t *testing.T) {
	seed, runs, parallel := number(t, "FAULTS_SEED", uint64(time.Now().Unix())), number(t, "FAULTS_RUNS", 10), number(t, "FAULTS_PARALLEL", 1)
	seeds := make([]uint64, runs)
	for i := range seeds {
		seeds[i] = seed + uint64(i)
	}
	manyRuns(t, rigBinaries(t, t.Context()), seeds, parallel, draw)
}

// TestE2EFaults is a short run for CI, with seeds of its own each time: one in
// each of the worlds that take nothing special of a machine, and without what
// takes dials, which everything would have to be compiled anew for.
func TestE2EFaults(t *testing.T) {
	var seeds []uint64
	seed := uint64(time.Now().Unix())
	for _, kind := range []worldKind{embeddedWorld, singleWorld, clusterWorld} {
		for draw(seed).world != kind {
			seed++
		}
		seeds = append(seeds, seed)
	}
	manyRuns(t, rigBinariesWith(t, t.Context()), seeds, 1, func(seed uint64) plan { return draw(seed).withoutDials() })
}

func manyRuns(t *testing.T, binary string, seeds []uint64, parallel uint64, draw func(seed uint64) plan) {
	t.Helper()
	visited := map[string]int{}
	slots := make(chan bool, parallel)
	var mu sync.Mutex
	t.Run("runs", func(t *testing.T) {
		for _, seed := range seeds {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				slots <- true
				defer func() { <-slots }()
				p := draw(seed)
				if want := os.Getenv("FAULTS_WORLD"); want != "" && want != string(p.world) {
					t.Skip("another world is asked for")
				}
				if why := unmade(p.world); why != "" {
					t.Skipf("NOT PROVEN: %s: %s", p.world, why)
				}
				began := time.Now()
				w, b := oneRun(t, binary, seed, p)
				for _, problem := range b.problems {
					t.Error(problem)
				}
				if t.Failed() {
					t.Logf("again with: make faults FAULTS_SEED=%d FAULTS_RUNS=1", seed)
				}
				o := report(seed, began, w, b)
				w.end()
				line, _ := json.Marshal(o)
				t.Logf("%s", line)
				mu.Lock()
				defer mu.Unlock()
				for point, n := range o.Visited {
					visited[point] += n
				}
				if name := os.Getenv("FAULTS_REPORT"); name != "" {
					f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
					if err != nil {
						t.Fatal(err)
					}
					fmt.Fprintln(f, string(line))
					_ = f.Close()
				}
			})
		}
	})
	for _, p := range killpoint.Points() {
		if visited[string(p)] == 0 {
			t.Logf("no run came past the point %s", p)
		}
	}
}

// unmade says why this machine can't make a world, "" when it can.
func unmade(kind worldKind) string {
	switch {
	case kind == embeddedWorld, kind == singleWorld, kind == clusterWorld:
		return ""
	case os.Geteuid() != 0:
		return "it takes root to mount file systems and to make networks"
	}
	need := map[worldKind][]string{powerWorld: {"losetup", "mkfs.ext4"}, blackoutWorld: {"losetup", "mkfs.ext4"}, partitionWorld: {"ip"}, namesWorld: {"ip", "bash"}, splitWorld: {"ip"}}
	for _, program := range need[kind] {
		if _, err := exec.LookPath(program); err != nil {
			return err.Error()
		}
	}
	return ""
}
