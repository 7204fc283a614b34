package natstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Servers is a cluster of NATS servers with JetStream, for what needs replicas.
// It is what NATS_URL points to in production; Backstop itself embeds single
// servers only.
type Servers struct {
	t    testing.TB
	opts []*server.Options
	// Members has every server. A stopped one keeps its place.
	Members []*server.Server
}

// Cluster starts n servers on loopback and returns when they have elected a
// leader and all of them follow, which takes one to two seconds. They stop when
// the test ends.
func Cluster(t testing.TB, n int) *Servers {
	t.Helper()
	c := &Servers{t: t, Members: make([]*server.Server, n)}
	ports := freePorts(t, 2*n)
	var routes []*url.URL
	for _, p := range ports[n:] {
		routes = append(routes, &url.URL{Scheme: "nats", Host: hostPort(p)})
	}
	for i := range n {
		c.opts = append(c.opts, &server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: ports[i], Routes: routes,
			Cluster:   server.ClusterOpts{Name: "natstest", Host: "127.0.0.1", Port: ports[n+i]},
			JetStream: true, StoreDir: t.TempDir(), JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 1 << 30,
			DisableJetStreamBanner: true, NoSigs: true, NoLog: true,
		})
		c.launch(i)
		t.Cleanup(func() { c.Stop(i) })
	}
	c.awaitReady()
	return c
}

// Stop stops server i, as if it were lost.
func (c *Servers) Stop(i int) {
	c.Members[i].Shutdown()
	c.Members[i].WaitForShutdown()
}

// Restart starts a stopped server i again on its data and ports, and returns
// when the cluster has its leader and the server follows.
func (c *Servers) Restart(i int) {
	c.t.Helper()
	c.launch(i)
	c.awaitReady()
}

func (c *Servers) launch(i int) {
	c.t.Helper()
	s, err := server.NewServer(c.opts[i].Clone()) // the server writes into its options
	if err != nil {
		c.t.Fatalf("natstest: %v", err)
	}
	c.Members[i] = s
	s.Start()
}

// awaitReady waits until every running server has a leader to follow, and the
// leader has heard from all of them. A leader alone is not enough: until it has
// their reports it refuses streams, saying that peers are offline.
func (c *Servers) awaitReady() {
	c.t.Helper()
	deadline := time.Now().Add(startTimeout)
	for !c.ready() {
		if time.Now().After(deadline) {
			c.t.Fatalf("natstest: no cluster after %v", startTimeout)
		}
		<-time.After(5 * time.Millisecond)
	}
	c.place(deadline)
}

// place makes a stream that has a copy on every running server. On a busy
// machine the leader takes a server that it has heard from for offline again,
// and then a test's first stream is refused. The stream stays: with an account's
// last stream a server removes the directory of its streams, some time after its
// answer, and a test's first stream then found no place for its store (10049).
func (c *Servers) place(deadline time.Time) {
	c.t.Helper()
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	nc, err := nats.Connect(c.URL(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		c.t.Fatalf("natstest: connect: %v", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(2*time.Second))
	if err != nil {
		c.t.Fatalf("natstest: %v", err)
	}
	running := 0
	for _, s := range c.Members {
		if s != nil && s.Running() {
			running++
		}
	}
	probe := jetstream.StreamConfig{Name: "NATSTEST", Subjects: []string{"natstest"}, Storage: jetstream.MemoryStorage, Replicas: running}
	for {
		err := js.DeleteStream(ctx, probe.Name) // the one of an earlier place says nothing of now
		if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
			_, err = js.CreateStream(ctx, probe)
		}
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("natstest: the cluster takes no streams after %v: %v", startTimeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *Servers) ready() bool {
	var running, known int
	for _, s := range c.Members {
		if s == nil || !s.Running() {
			continue
		}
		if s.Healthz(&server.HealthzOptions{JSMetaOnly: true}).Error != "" {
			return false
		}
		running++
		known = max(known, len(s.JetStreamClusterPeers())) // none, of all but the leader
	}
	return known >= running
}

// URL lists the servers, for nats.Connect.
func (c *Servers) URL() string {
	var urls []string
	for _, o := range c.opts {
		urls = append(urls, "nats://"+hostPort(o.Port))
	}
	return strings.Join(urls, ",")
}

// Conn opens a connection of its own at each call, to any of the servers, and
// closes it when the test ends. It reconnects to another one for ever, and fast.
func (c *Servers) Conn(opts ...nats.Option) *nats.Conn {
	c.t.Helper()
	own := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(10 * time.Millisecond)}
	nc, err := nats.Connect(c.URL(), append(own, opts...)...)
	if err != nil {
		c.t.Fatalf("natstest: connect: %v", err)
	}
	c.t.Cleanup(nc.Close)
	return nc
}

func hostPort(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts finds n ports that are free on loopback. Somebody may take one
// before it is used; holding all until the last is found keeps them distinct.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, 0, n)
	for range n {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", hostPort(0))
		if err != nil {
			t.Fatalf("natstest: %v", err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
