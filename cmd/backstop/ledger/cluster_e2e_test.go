//go:build e2e

package ledger

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// cluster is what .tools/cluster runs: three NATS servers, two replicas, and a
// sample app, as processes.
type cluster struct {
	*testing.T
	ctx  context.Context
	root string // of the repository
	dir  string // of process ids, logs and logins
	cmd  *exec.Cmd
}

func startCluster(t *testing.T, ctx context.Context) *cluster {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(ctx, "make", "-C", root, "build", "bin/nats-server")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := &cluster{T: t, ctx: ctx, root: root, dir: filepath.Join(t.TempDir(), "cluster")}
	c.cmd = exec.CommandContext(ctx, filepath.Join(root, ".tools", "cluster"))
	c.cmd.Env = append(os.Environ(), "CLUSTER_DIR="+c.dir, "CLUSTER_PORT="+strconv.Itoa(freeRange(t, 40)))
	c.cmd.Cancel = func() error { return c.cmd.Process.Signal(syscall.SIGTERM) }
	c.cmd.Stderr = t.Output()
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(c.dir, "*.log"))
			for _, name := range logs {
				data, _ := os.ReadFile(name)
				t.Logf("%s:\n%s", filepath.Base(name), data[max(0, len(data)-4000):])
			}
		}
		c.stop()
	})
	ready := make(chan bool, 1)
	go func() { // ends with the script
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			t.Log(lines.Text())
			if lines.Text() == "ready" {
				ready <- true
			}
		}
		close(ready)
	}()
	if !<-ready {
		t.Fatal("the cluster did not get ready")
	}
	return c
}

// stop sends what Ctrl-C sends, and waits for the script.
func (c *cluster) stop() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Signal(syscall.SIGINT)
		if err := c.cmd.Wait(); err != nil {
			c.Errorf(".tools/cluster ended with %v", err)
		}
	}
}

// freeRange finds n ports in a row that are free on loopback. Somebody may take
// one before it is used.
func freeRange(t *testing.T, n int) int {
	t.Helper()
search:
	for base := 20_000 + os.Getpid()%200*40; base < 32_000; base += n {
		for port := base; port < base+n; port++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				continue search
			}
			_ = l.Close()
		}
		return base
	}
	t.Fatal("there are no 40 ports in a row")
	return 0
}

func (c *cluster) pid(name string) int {
	c.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, name+".pid"))
	if err != nil {
		c.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		c.Fatal(err)
	}
	return pid
}

func (c *cluster) kill(name string) {
	c.Helper()
	if err := syscall.Kill(c.pid(name), syscall.SIGKILL); err != nil {
		c.Fatalf("kill %s: %v", name, err)
	}
	c.Logf("killed %s", name)
}

// login returns what a file of the script exports.
func (c *cluster) login(user string) map[string]string {
	c.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, user+".env"))
	if err != nil {
		c.Fatal(err)
	}
	login := make(map[string]string)
	for _, field := range strings.Fields(string(text))[1:] {
		name, value, _ := strings.Cut(field, "=")
		login[name] = value
	}
	return login
}

// TestE2EClusterOutlivesAServerAndAReplica: with one of three NATS servers and
// one of two replicas killed in the midst of it, every event that was
// acknowledged is delivered.
func TestE2EClusterOutlivesAServerAndAReplica(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := startCluster(t, ctx)

	var mu sync.Mutex
	got := make(map[string]int) // requests by id
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got[r.Header.Get("X-Request-Id")]++
	}))
	defer app.Close()
	manifest := filepath.Join(c.dir, "counter.json")
	text := `{"appId":"counter","name":"Counter","baseUrl":"` + app.URL + `","webhooks":{"analytics":{"path":"/","async":true,"timeout":5000}}}`
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	apply := exec.CommandContext(ctx, filepath.Join(c.root, "bin", "backstop"), "apps", "apply", manifest)
	apply.Env = os.Environ()
	for name, value := range c.login("operator") {
		apply.Env = append(apply.Env, name+"="+value)
	}
	if out, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("apps apply: %v\n%s", err, out)
	}

	const count = 200
	service := c.login("publisher")
	nc, err := nats.Connect(service["NATS_URL"], nats.UserInfo(service["NATS_USER"], service["NATS_PASSWORD"]),
		nats.CustomInboxPrefix(service["NATS_INBOX_PREFIX"]), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	publisher := streams.NewPublisher(js)
	for n := range count {
		switch n {
		case count / 3:
			c.kill("nats1")
		case count / 2:
			c.kill("backstop1")
		}
		for { // until it is acknowledged: electing a leader takes 4 to 8 s
			try, cancel := context.WithTimeout(ctx, 3*time.Second)
			_, err := publisher.Publish(try, streams.EndpointID{Capability: "analytics", App: "counter"}, fmt.Sprintf("event-%d", n), []byte(`{}`))
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("event-%d could not be published: %v", n, err)
			}
		}
	}
	t.Logf("published %d", count)
	delivered := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(got)
	}
	for delivered() < count && ctx.Err() == nil {
		pause(ctx, 100*time.Millisecond)
	}
	if n := delivered(); n != count {
		t.Errorf("%d of %d were delivered", n, count)
	}

	// Ctrl-C stops what is left of it.
	pids := []int{c.pid("nats2"), c.pid("nats3"), c.pid("backstop2"), c.pid("app")}
	c.stop()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d outlived the script", pid)
		}
	}
}
