package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"backstop/cmd/backstop/bench"
)

// layout is how a Backstop of several processes is put together.
type layout struct {
	// dir is where it keeps what it stores; empty: a directory of its own that
	// is removed at the end.
	dir string
	// sync is BACKSTOP_SYNC of the embedded server, or of each node.
	sync string
	// replicas are processes of serve, at least 1.
	replicas int
	// nodes are NATS servers of their own, 0 or 3; without, the first replica's
	// embedded one is everybody's.
	nodes int
}

// processes are what a layout became.
type processes struct {
	dir     string
	nodes   []*exec.Cmd
	serving []*exec.Cmd
	nats    string
	// started is how long it took from the start of serve until it consumed.
	started time.Duration
}

// apart runs do beside a Backstop of processes of its own.
func (r *benchRun) apart(ctx context.Context, l layout, do func(context.Context, bench.Target, *processes) error) error {
	p := &processes{dir: l.dir}
	if p.dir == "" {
		dir, err := os.MkdirTemp("", "backstop-bench-")
		if err != nil {
			return err
		}
		p.dir = dir
		defer func() { _ = os.RemoveAll(dir) }()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer p.kill() // before the directory goes
	if err := p.start(ctx, r.natsServer, l); err != nil {
		return err
	}
	cfg := defaultConfig()
	cfg.NATSURL = p.nats
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	t, err := c.benchTarget(ctx)
	if err != nil {
		return err
	}
	return do(ctx, t, p)
}

func (p *processes) start(ctx context.Context, natsServer string, l layout) error {
	if l.nodes > 0 {
		if err := p.startNodes(ctx, natsServer, l); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range l.replicas {
		ports, err := freePorts(ctx, 2)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, self, "serve") //nolint:gosec // our own binary
		cmd.Stderr = os.Stderr
		cmd.Env = append(withoutSettings(os.Environ()),
			"BACKSTOP_DATA_DIR="+filepath.Join(p.dir, "serve"+strconv.Itoa(i)),
			"BACKSTOP_SECRETS_KEY_FILE="+filepath.Join(p.dir, "secrets.key"),
			"BACKSTOP_REPLICA_NAME=bench-"+strconv.Itoa(i),
			"BACKSTOP_HTTP_ADDR="+onLoopback(ports[0]), "BACKSTOP_NATS_ADDR="+onLoopback(ports[1]),
			"BACKSTOP_REPLICAS="+strconv.Itoa(max(l.nodes, 1)), "BACKSTOP_SYNC="+l.sync,
			"BACKSTOP_ALLOWED_NETWORKS=127.0.0.0/8", "BACKSTOP_LOG_LEVEL=error", "NATS_URL="+p.nats,
		)
		if err := cmd.Start(); err != nil {
			return err
		}
		p.serving = append(p.serving, cmd)
		if p.nats == "" {
			p.nats = "nats://" + onLoopback(ports[1])
		}
		if err := answers(ctx, "http://"+onLoopback(ports[0])+"/readyz"); err != nil {
			return fmt.Errorf("replica %d: %w", i+1, err)
		}
		if i == 0 {
			p.started = time.Since(began)
		}
	}
	return nil
}

// startNodes starts a NATS cluster, synced as a single node would be.
func (p *processes) startNodes(ctx context.Context, natsServer string, l layout) error {
	ports, err := freePorts(ctx, 3*l.nodes)
	if err != nil {
		return err
	}
	var urls, routes []string
	for i := range l.nodes {
		urls = append(urls, "nats://"+onLoopback(ports[3*i]))
		routes = append(routes, "nats-route://"+onLoopback(ports[3*i+1]))
	}
	for i := range l.nodes {
		store := filepath.Join(p.dir, "node"+strconv.Itoa(i))
		config := fmt.Sprintf("server_name: n%d\nlisten: %q\nhttp: %q\njetstream { store_dir: %q, sync_interval: %s }\ncluster { name: bench, listen: %q, routes: [%s] }\n",
			i, onLoopback(ports[3*i]), onLoopback(ports[3*i+2]), store, l.sync, onLoopback(ports[3*i+1]), strings.Join(routes, ", "))
		file := store + ".conf"
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, natsServer, "-c", file, "-l", store+".log") //nolint:gosec // a program that the user named
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("--nats-server: %w", err)
		}
		p.nodes = append(p.nodes, cmd)
	}
	for i := range l.nodes {
		if err := answers(ctx, "http://"+onLoopback(ports[3*i+2])+"/healthz"); err != nil {
			return fmt.Errorf("NATS node %d: %w", i+1, err)
		}
	}
	p.nats = strings.Join(urls, ",")
	return nil
}

// stop ends the replicas as an operator would, for another start in the same
// directory.
func (p *processes) stop() error {
	var errs []error
	for _, cmd := range p.serving {
		errs = append(errs, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	}
	p.serving = nil
	return errors.Join(errs...)
}

// kill ends what is left. What it stored is not needed.
func (p *processes) kill() {
	for _, cmd := range slices.Concat(p.serving, p.nodes) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// resident is the memory of the replicas.
func (p *processes) resident() (bytes int64, err error) {
	for _, cmd := range p.serving {
		n, err := residentBytes(cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		bytes += n
	}
	return bytes, nil
}

// cpu is the CPU time that the replicas and nodes have used, as Linux tells it.
func (p *processes) cpu() (used time.Duration, err error) {
	for _, cmd := range slices.Concat(p.serving, p.nodes) {
		n, err := cpuTimeOf(cmd.Process.Pid)
		if err != nil {
			return 0, err
		}
		used += n
	}
	return used, nil
}

// cpuTimeOf is a process's time in user and system mode, of /proc/<pid>/stat.
func cpuTimeOf(pid int) (time.Duration, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// After the name in parentheses, which may hold anything: state is the
	// first field, utime the 12th and stime the 13th, in hundredths of a second.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat can't be read", pid)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// answers waits until a GET of the URL is answered 200.
func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute) // 100,000 endpoints take their time
	defer cancel()
	client := http.Client{Timeout: 5 * time.Second}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer 200: %w", url, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// withoutSettings drops what would configure a Backstop.
func withoutSettings(env []string) []string {
	var rest []string
	for _, setting := range env {
		name, _, _ := strings.Cut(setting, "=")
		switch prefix, _, _ := strings.Cut(name, "_"); prefix {
		case "BACKSTOP", "NATS", "WEBHOOK", "CIRCUIT", "APP":
		default:
			rest = append(rest, setting)
		}
	}
	return rest
}

func onLoopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts finds ports that nobody uses now.
func freePorts(ctx context.Context, n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all of them at the end, so that they differ
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		if ports[i], err = strconv.Atoi(port); err != nil {
			return nil, err
		}
	}
	return ports, nil
}
