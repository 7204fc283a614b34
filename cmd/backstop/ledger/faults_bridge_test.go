//go:build e2e

package ledger

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
)

// bridge joins network namespaces, in each of which is a NATS server.
type bridge struct {
	name   string
	places []place
	ends   []string // of each namespace's link, on the bridge
}

// inside is what a program is run by to be in a namespace.
func inside(namespace string) []string { return []string{"ip", "netns", "exec", namespace} }

func newBridge(t *testing.T, ctx context.Context, count int) *bridge {
	t.Helper()
	n := network()
	b := &bridge{name: fmt.Sprintf("bsf%d-%d", os.Getpid()%100_000, n)}
	do := func(args ...string) {
		t.Helper()
		if err := run(ctx, "ip", args...); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = run(context.WithoutCancel(ctx), "ip", "link", "delete", b.name) })
	do("link", "add", b.name, "type", "bridge")
	do("addr", "add", fmt.Sprintf("10.233.%d.1/24", n), "dev", b.name)
	do("link", "set", b.name, "up")
	for i := range count {
		namespace, host := fmt.Sprintf("%s.%d", b.name, i), fmt.Sprintf("10.233.%d.%d", n, 11+i)
		t.Cleanup(func() { _ = run(context.WithoutCancel(ctx), "ip", "netns", "delete", namespace) })
		do("netns", "add", namespace)
		do("link", "add", namespace, "type", "veth", "peer", "name", "eth0", "netns", namespace)
		do("link", "set", namespace, "master", b.name, "up")
		do("-n", namespace, "addr", "add", host+"/24", "dev", "eth0")
		do("-n", namespace, "link", "set", "eth0", "up")
		do("-n", namespace, "link", "set", "lo", "up")
		b.places = append(b.places, place{host, inside(namespace)})
		b.ends = append(b.ends, namespace)
	}
	return b
}

// split takes a NATS server off the bridge for a while: nothing that is sent
// to it or by it arrives, and nobody is told.
func (w *world) split(n *node, long time.Duration) {
	w.fault(n.name+" cut off", true, func() {
		for i := range w.nodes {
			if w.nodes[i] != n {
				continue
			}
			if err := run(w.ctx, "ip", "link", "set", w.bridge.ends[i], "nomaster"); err != nil {
				w.problem("the servers can't be parted: %v", err)
			}
			pause(w.ctx, long)
			if err := run(w.ctx, "ip", "link", "set", w.bridge.ends[i], "master", w.bridge.name); err != nil {
				w.problem("the servers can't be joined: %v", err)
			}
		}
		for _, r := range w.replicas {
			for w.ctx.Err() == nil && !r.ready() {
				pause(w.ctx, 50*time.Millisecond)
			}
		}
		pause(w.ctx, 5*time.Second) // what is sent again, and what replicas had in hand
	})
}
