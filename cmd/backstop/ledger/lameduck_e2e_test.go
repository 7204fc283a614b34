//go:build e2e

package ledger

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/streams"
)

// TestE2ENodesAreReplaced: as in an upgrade of NATS, three servers go one after
// the other into lame duck mode and come back, and then both replicas are
// replaced as well. Nothing is lost, and callers on another server get their
// app's answer.
func TestE2ENodesAreReplaced(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	w := newWorld(t, ctx, rigBinariesWith(t, ctx), 1, plan{world: clusterWorld, replicas: 2})
	apps := []string{"ok-0", "slow-0"}
	w.applySteady(apps)
	for _, app := range apps { // with the secrets that the receivers check by
		secret := filepath.Join(w.dir, app+".secret")
		w.must(os.WriteFile(secret, []byte(secretOf(w.secrets(), app)), 0o600))
		w.command("apps", "apply", filepath.Join(w.dir, app+".json"), "--secret-file", secret)
	}
	nc, js := w.connect()
	defer nc.Close()
	w.awaitWatch(nc, len(w.replicas))

	traffic, stop := context.WithCancel(ctx)
	defer stop()
	var busy sync.WaitGroup
	published := make(map[target]publication)
	busy.Go(func() { w.publishSteadily(traffic, js, apps, published) })
	calls := &answers{sources: map[streams.Source]int{}}
	// beside does something while calls are made over the server that it leaves alone.
	beside := func(other *node, do func()) {
		caller, err := nats.Connect(other.url)
		w.must(err)
		defer caller.Close()
		calling, done := context.WithCancel(ctx)
		var callers sync.WaitGroup
		for i := range 4 {
			callers.Go(func() { w.callSteadily(calling, caller, fmt.Sprint(other.name, i), calls) })
		}
		do()
		done()
		callers.Wait()
	}
	for i, n := range w.nodes {
		beside(w.nodes[(i+1)%len(w.nodes)], func() {
			w.lameDuck(n)
			w.awaitWatch(nc, len(w.replicas))
		})
	}
	beside(w.nodes[0], func() {
		for _, r := range w.replicas {
			before := r.starts.Load()
			r.signal(syscall.SIGTERM)
			for ctx.Err() == nil && (r.starts.Load() == before || !r.ready()) {
				pause(ctx, 50*time.Millisecond)
			}
			w.awaitWatch(nc, len(w.replicas))
		}
	})
	stop()
	busy.Wait()
	w.settle(js)
	b := &books{
		published: published, requests: requests(readRecord(t, w.record)), letters: w.deadLetters(js), faults: w.faults.all(),
		maxAttempts: attempts, firstWait: firstWait, mostWait: mostWait,
	}
	b.audit()
	for _, p := range append(b.problems, w.problems...) {
		t.Error(p)
	}
	if b.dead > 0 || b.delivered != len(published) || len(published) < 100 {
		t.Errorf("%d of %d events were delivered, %d dead-lettered", b.delivered, len(published), b.dead)
	}
	t.Log(b)
	t.Logf("calls by source %v, the slowest after %v", calls.sources, calls.slowest)
}

// lameDuck has a server send its clients and its leaderships elsewhere and end,
// and starts it again.
func (w *world) lameDuck(n *node) {
	w.Helper()
	w.fault(n.name+" in lame duck mode", true, func() {
		w.must(n.cmd.Process.Signal(syscall.SIGUSR2))
		if err := <-n.exited; err != nil {
			w.problem("%s ended its lame duck mode with %v", n.name, err)
		}
		w.startAgain(n)
	})
}
