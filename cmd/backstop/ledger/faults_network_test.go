//go:build e2e

package ledger

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// link is a network namespace of a run's own, and the only way into it.
type link struct {
	name        string // of the namespace
	here, there string // addresses of its ends
	network     string
}

var links atomic.Int64

// network is the next number for a network of a run's own. Two rigs on one
// machine had the same, and their replicas met.
func network() int64 { return (int64(os.Getpid()) + links.Add(1)) % 250 }

func newLink(t *testing.T, ctx context.Context) *link {
	t.Helper()
	n := network()
	name := fmt.Sprintf("bsf%d-%d", os.Getpid()%100_000, n)
	l := &link{name: name, here: fmt.Sprintf("10.231.%d.1", n), there: fmt.Sprintf("10.231.%d.2", n), network: fmt.Sprintf("10.231.%d.0/24", n)}
	t.Cleanup(func() { // the devices go with it
		_ = run(context.WithoutCancel(ctx), "ip", "netns", "delete", name)
	})
	for _, command := range [][]string{
		{"ip", "netns", "add", name},
		{"ip", "link", "add", name + "h", "type", "veth", "peer", "name", "eth0", "netns", name},
		{"ip", "addr", "add", l.here + "/24", "dev", name + "h"},
		{"ip", "link", "set", name + "h", "up"},
		{"ip", "-n", name, "addr", "add", l.there + "/24", "dev", "eth0"},
		{"ip", "-n", name, "link", "set", "eth0", "up"},
		{"ip", "-n", name, "link", "set", "lo", "up"},
	} {
		if err := run(ctx, command[0], command[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// part cuts the second replica off from NATS and from all apps: nothing that is
// sent arrives, and nobody is told.
func (w *world) part(long time.Duration) {
	w.fault("replica2 cut off", false, func() {
		if err := run(w.ctx, "ip", "-n", w.link.name, "link", "set", "eth0", "down"); err != nil {
			w.problem("the network can't be parted: %v", err)
		}
		pause(w.ctx, 4500*time.Millisecond+long) // past the ack wait
		if err := run(w.ctx, "ip", "-n", w.link.name, "link", "set", "eth0", "up"); err != nil {
			w.problem("the network can't be joined: %v", err)
		}
		for w.ctx.Err() == nil && !w.replicas[1].ready() {
			pause(w.ctx, 50*time.Millisecond)
		}
		pause(w.ctx, 5*time.Second) // what is sent again, and what the replica had in hand
	})
}
