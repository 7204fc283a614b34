//go:build e2e

package ledger

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"backstop/streams"
)

// world is one run of the fault rig: replicas, NATS servers, receivers, and
// what is done to them.
type world struct {
	*rig
	seed     uint64
	random   *rand.Rand
	plan     plan
	replicas []*replica
	nodes    []*node
	disks    []*disk // with its own NATS, the one of its data; otherwise one of each server
	link     *link
	bridge   *bridge
	names    *names
	clocks   []time.Duration // how far ahead clocks have been set
	slow     fault           // of the disk, while it lasts
	keeping  sync.WaitGroup
	stop     context.CancelFunc // of keeping

	mu        sync.Mutex
	published map[target]publication
	decided   map[string]string // pending calls that were approved, by id → app
	problems  []string
}

func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// fault puts on record what is done by do, until it is over.
func (w *world) fault(what string, server bool, do func()) {
	from := time.Now()
	do()
	w.faults.add(fault{what, from, time.Now(), server})
}

// embeds tells whether replicas are their own NATS servers.
func (w *world) embeds() bool { return len(w.nodes) == 0 }

// replica is one `backstop serve` that is started again whenever it dies, as a
// supervisor does.
type replica struct {
	*rig
	w     *world
	name  string
	dials *dials

	gate sync.Mutex // held while it must not be started
	// mayEnd: it was told to end, maybe while it was starting, or its disk is full.
	mayEnd atomic.Bool
	starts atomic.Int64 // how often it was started
	mu     sync.Mutex
	arm    string    // kill point of the next start
	up     time.Time // since when it has been ready
	died   time.Time // when it was last found dead; after up: it is not ready yet
	base   usage     // what it held then
}

// keep runs the replica until ctx ends.
func (r *replica) keep(ctx context.Context, ready func()) {
	died := time.Now()
	for ctx.Err() == nil {
		r.gate.Lock()
		r.mu.Lock()
		arm := r.arm
		r.arm = ""
		r.mu.Unlock()
		var env []string
		if arm != "" {
			env = append(env, "BACKSTOP_KILL="+arm)
		}
		err := r.launch(env...)
		r.starts.Add(1)
		exited := r.exited
		r.gate.Unlock()
		if err != nil {
			r.w.problem("%s can't be started: %v", r.name, err)
			return
		}
		if r.awaitReady() == nil {
			now := time.Now()
			r.mu.Lock()
			r.up = now
			r.base, _ = r.use()
			r.mu.Unlock()
			if ready == nil {
				r.faults.add(fault{r.name + " was away", died, now, r.w.embeds()})
			} else {
				ready()
				ready = nil
			}
		}
		wasReady := r.up.After(died)
		err = <-exited
		exited <- err
		if wasReady {
			died = time.Now()
			r.mu.Lock()
			r.died = died
			r.mu.Unlock()
		}
		if ctx.Err() == nil && !killed(err) && err != nil && !r.mayEnd.Load() {
			r.w.problem("%s ended by itself: %v", r.name, err)
		}
	}
}

// killed tells whether a process ended by SIGKILL.
func killed(err error) bool {
	exit, ok := err.(*exec.ExitError) //nolint:errorlint // of Wait itself
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// signal sends one to the process, which may be gone.
func (r *replica) signal(s os.Signal) {
	r.gate.Lock()
	defer r.gate.Unlock()
	_ = r.serve.Process.Signal(s)
}

// killWith ends the process, and has the next die at the given visit of a point.
func (r *replica) killWith(arm string) {
	r.mu.Lock()
	r.arm = arm
	r.mu.Unlock()
	r.signal(syscall.SIGKILL)
}

// usage is what a process holds.
type usage struct {
	descriptors, goroutines int
	memory                  int64 // bytes resident
}

func (r *replica) use() (u usage, err error) {
	pid := strconv.Itoa(r.serve.Process.Pid)
	open, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
	if err != nil {
		return u, err
	}
	u.descriptors = len(open)
	if u.memory, err = resident(r.serve.Process.Pid); err != nil {
		return u, err
	}
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://"+r.http+"/metrics", nil)
	if err != nil {
		return u, err
	}
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := r.client.Do(req)
	if err != nil {
		return u, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return u, err
	}
	_, after, found := strings.Cut(string(text), "\ngo_goroutines ")
	if !found {
		return u, fmt.Errorf("no go_goroutines in %d bytes of metrics", len(text))
	}
	number, _, _ := strings.Cut(after, "\n")
	u.goroutines, err = strconv.Atoi(number)
	return u, err
}

const adminToken = "the-token-of-the-fault-rig"

// node is one nats-server.
type node struct {
	w       *world
	name    string
	conf    string
	url     string
	monitor string // its address for those who look
	dials   *dials
	disk    *disk // its own; nil where none can lose its power
	place

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan error
}

// pid is that of the process that runs, or ran last.
func (n *node) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd.Process.Pid
}

// place is where a NATS server listens, and what it is run by; nothing by default.
type place struct {
	host string
	wrap []string
}

// freeAddr is an address there. A network of the run's own has all of them.
func (p place) freeAddr(t *testing.T, otherwise string) string {
	t.Helper()
	if p.wrap != nil {
		return net.JoinHostPort(p.host, otherwise)
	}
	_, port, err := net.SplitHostPort(freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(p.host, port)
}

func (n *node) start() {
	n.w.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	command := append(append([]string{}, n.wrap...), natsServer, "-c", n.conf)
	n.cmd = exec.CommandContext(n.w.ctx, command[0], command[1:]...)
	n.cmd.Env = append(os.Environ(), n.dials.env())
	n.exited = make(chan error, 1)
	n.w.must(n.cmd.Start())
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(n.cmd, n.exited)
	process := n.cmd.Process
	n.w.Cleanup(func() { _ = process.Kill() })
}

func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	if err := <-n.exited; err == nil {
		n.w.problem("%s ended by itself", n.name)
	}
}

// await waits until the server takes clients.
func (n *node) await() {
	for n.w.ctx.Err() == nil {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(n.w.ctx, "tcp", strings.TrimPrefix(n.url, "nats://"))
		if err == nil {
			_ = c.Close()
			return
		}
		pause(n.w.ctx, 20*time.Millisecond)
	}
}

// natsServer is set by the test, once for all runs.
var natsServer string

// newNodes writes the configuration of a server for each place, and starts them.
func (w *world) newNodes(places ...place) {
	w.Helper()
	var listen, routes []string
	for _, p := range places {
		listen = append(listen, p.freeAddr(w.T, "4222"))
		routes = append(routes, p.freeAddr(w.T, "6222"))
	}
	for i, p := range places {
		n := &node{w: w, name: fmt.Sprintf("nats%d", i+1), url: "nats://" + listen[i], monitor: p.freeAddr(w.T, "8222"), place: p}
		n.dials = newDials(w.T, w.dir, n.name)
		store := filepath.Join(w.dir, n.name)
		if w.plan.world == blackoutWorld {
			n.disk = newDisk(w, n.name, true)
			store = filepath.Join(n.disk.mount, "data")
		}
		n.conf = filepath.Join(w.dir, n.name+".conf")
		text := fmt.Sprintf("server_name: %s\nlisten: %q\nhttp: %q\nlog_file: %q\nlame_duck_duration: 30s\nlame_duck_grace_period: 2s\njetstream { store_dir: %q, max_file_store: 60G, sync_interval: always }\n",
			n.name, listen[i], n.monitor, filepath.Join(w.dir, n.name+".log"), store)
		if len(places) > 1 {
			text += fmt.Sprintf("cluster { name: faults, listen: %q, routes: [nats-route://%s] }\n", routes[i], strings.Join(routes, ", nats-route://"))
		}
		w.must(os.WriteFile(n.conf, []byte(text), 0o600))
		w.nodes = append(w.nodes, n)
		n.start()
	}
	var urls []string
	for _, n := range w.nodes {
		n.await()
		urls = append(urls, n.url)
	}
	w.url = strings.Join(urls, ",")
}

// newWorld starts what the plan asks for.
func newWorld(t *testing.T, ctx context.Context, binary string, seed uint64, p plan, env ...string) *world {
	t.Helper()
	w := &world{seed: seed, random: rand.New(rand.NewPCG(seed, 5)), plan: p, published: map[target]publication{}, decided: map[string]string{}}
	host := "127.0.0.1"
	if p.world == partitionWorld || p.world == namesWorld {
		w.link = newLink(t, ctx)
		host = w.link.here
	}
	listen := []string{listenEnv + "=" + host}
	certificates, authority := writeCertificates(t, host)
	listen = append(listen, certificatesEnv+"="+certificates)
	w.rig = newRigOf(t, ctx, binary, w.secrets(), listen...)
	w.env = append(w.env, env...)
	w.env = append(w.env, "SSL_CERT_FILE="+authority) // what webhooks trust
	w.env = append(w.env, "BACKSTOP_ADMIN_TOKEN="+adminToken, "BACKSTOP_KILL_RECORD="+filepath.Join(w.dir, "points"))
	switch p.world {
	default:
		w.env = append(w.env, "BACKSTOP_STORE_MAX=400MiB")
	case diskWorld, powerWorld:
		d := newDisk(w, "disk", p.world == powerWorld)
		w.env = append(w.env, "BACKSTOP_STORE_MAX=300MiB", "BACKSTOP_DATA_DIR="+filepath.Join(d.mount, "data"))
	case singleWorld:
		w.newNodes(place{host: host})
	case partitionWorld, namesWorld:
		w.newNodes(place{host: host})
		w.env = append(w.env, "BACKSTOP_ALLOWED_NETWORKS=127.0.0.0/8,"+w.link.network)
	case clusterWorld, blackoutWorld:
		w.newNodes(place{host: host}, place{host: host}, place{host: host})
		w.env = append(w.env, "BACKSTOP_REPLICAS=3")
	case splitWorld:
		w.bridge = newBridge(t, ctx, 3)
		w.newNodes(w.bridge.places...)
		w.env = append(w.env, "BACKSTOP_REPLICAS=3")
	}
	if p.world == namesWorld {
		w.names = newNames(w)
	}
	if len(w.nodes) > 0 {
		w.env = append(w.env, "NATS_URL="+w.url)
	}
	keeping, stop := context.WithCancel(ctx)
	w.stop = stop
	for i := range p.replicas {
		one := w.rig
		if i > 0 {
			one = w.sibling()
		}
		if p.world == namesWorld || p.world == partitionWorld && i > 0 { // beyond the link
			one.wrap, one.http = inside(w.link.name), fmt.Sprintf("%s:%d", w.link.there, 8080+i)
			one.env = append(one.env, "BACKSTOP_HTTP_ADDR="+one.http)
		}
		r := &replica{rig: one, w: w, name: fmt.Sprintf("replica%d", i+1)}
		r.dials = newDials(t, w.dir, r.name)
		r.env = append(append([]string{}, r.env...), "BACKSTOP_REPLICA_NAME="+r.name, "BACKSTOP_PUBLIC_URL=http://"+r.http, r.dials.env())
		log, err := os.Create(filepath.Join(w.dir, r.name+".log"))
		w.must(err)
		t.Cleanup(func() { _ = log.Close() })
		r.log = log
		w.replicas = append(w.replicas, r)
		if i < len(p.arms) {
			r.arm = p.arms[i]
		}
		ready := make(chan bool)
		w.keeping.Go(func() { r.keep(keeping, func() { close(ready) }) })
		select {
		case <-ready:
		case <-ctx.Done():
			w.Fatalf("%s did not get ready", r.name)
		}
	}
	t.Cleanup(w.end)
	return w
}

// end kills what is left.
func (w *world) end() {
	w.stop()
	for _, r := range w.replicas {
		r.signal(syscall.SIGKILL)
	}
	w.keeping.Wait()
	for _, n := range w.nodes {
		n.kill()
	}
	w.nodes = nil
	for _, d := range w.disks {
		d.remove()
	}
	w.disks = nil
	w.keepLogs()
}

// keepLogs shows the end of each log of a run that failed, and leaves all of
// them in FAULTS_LOGS, if that is a directory.
func (w *world) keepLogs() {
	if !w.Failed() {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(w.dir, "*.log"))
	for _, name := range append(logs, w.record) {
		data, _ := os.ReadFile(name)
		if dir := os.Getenv("FAULTS_LOGS"); dir != "" {
			_ = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d-%s", w.seed, filepath.Base(name))), data, 0o600)
		} else if name != w.record {
			w.Logf("%s:\n%s", filepath.Base(name), data[max(0, len(data)-2000):])
		}
	}
}

func (w *world) secrets() string { return strconv.FormatUint(w.seed, 36) }

// What apps there are, and what they take: analytics by everybody, report by
// those that broadcasts go to, score by those that are called.
func (w *world) apps() []string {
	return []string{
		"ok-0", "ok-1", "ok-2", "ok-3", "slow-0", "hang-0", "fail-0", "fail-1", "flap-0", "flap-1", "reject-0", "refuse-0",
		"drop-0", "reset-0", "cut-0", "trickle-0", "endless-0", "bomb-0", "loop-0", "gone-0", "later-0", "muchlate-0",
		"owes-0", "calls-0", "halfopen-0", "tls-0", "dns-0", "trusted-0", "expired-0", "wrongname-0", "unknown-0", "flapname-0", "rebound-0",
	}
}

func (w *world) takesReports() []string {
	return []string{"ok-0", "ok-1", "fail-0", "flap-0", "slow-0"}
}

func (w *world) isCalled() []string { return []string{"ok-2", "fail-1", "flap-1", "refuse-0"} }

const (
	reports = "report"
	scores  = "score"
)

// firstWait and mostWait are the manifests' retry delays.
const (
	firstWait = 100 * time.Millisecond
	mostWait  = 400 * time.Millisecond
	jitterOff = 0.8 // the least that jitter leaves of a delay
	attempts  = 3
	maxAge    = 6 * time.Second
)

func (w *world) manifest(app string) []byte {
	kind, _, _ := strings.Cut(app, "-")
	base := "http://" + w.startedReceiver
	switch kind {
	case "refuse":
		base = "http://127.0.0.1:1"
	case "halfopen":
		base = "http://" + w.halfOpenAt
	case "tls":
		base = "https://" + w.startedReceiver // where no TLS is spoken
	case "dns":
		base = "http://nowhere.invalid"
	case trustedKind, expiredKind, wrongNameKind, unknownKind:
		base = "https://" + w.receivers.TLS[kind]
	case flappingKind:
		base = "http://" + net.JoinHostPort(flappingName, portOf(w.startedReceiver))
	case reboundKind:
		base = "http://" + net.JoinHostPort(reboundName, portOf(w.startedReceiver))
	}
	timeout := 3000 // this machine may be busy, and then the app is too late
	switch kind {
	case "hang", "trickle", "halfopen":
		timeout = 1000 // a receiver that is later to note a request sees too short a wait before the next
	}
	webhook := func(more string) string {
		return fmt.Sprintf(`{"path":"/%s","async":true,"timeout":%d,"maxAge":%d,"concurrency":8,
			"retry":{"maxAttempts":%d,"initialDelay":%d,"maxDelay":%d},
			"breaker":{"failureThreshold":5,"recoveryTimeout":300,"successThreshold":2}%s}`, app, timeout, maxAge.Milliseconds(), attempts, firstWait.Milliseconds(), mostWait.Milliseconds(), more)
	}
	var hooks string
	switch kind {
	case "owes", "calls":
		hooks = `"analytics":` + webhook(`,"callback":{"within":1000,"retry":true}`)
	default:
		hooks = `"analytics":` + webhook("")
	}
	for _, name := range w.takesReports() {
		if name == app {
			hooks += `,"report":` + webhook("")
		}
	}
	for i, name := range w.isCalled() {
		if name == app {
			hooks += fmt.Sprintf(`,"score":{"path":"/%s","async":false,"timeout":1000,"maxAge":6000,"fallback":[{"strategy":%q}],
				"retry":{"maxAttempts":3,"initialDelay":100,"maxDelay":400},"breaker":{"failureThreshold":5,"recoveryTimeout":300,"successThreshold":2}}`,
				app, []string{"queue", "pending"}[i%2])
		}
	}
	return fmt.Appendf(nil, `{"appId":%q,"name":%q,"baseUrl":%q,"webhooks":{%s}}`, app, app, base, hooks)
}

// apply declares an app, with the secret that the receivers know, however
// often it takes.
func (w *world) apply(app string, env ...string) {
	file, secret := filepath.Join(w.dir, app+".json"), filepath.Join(w.dir, app+".secret")
	w.must(os.WriteFile(file, w.manifest(app), 0o600))
	w.must(os.WriteFile(secret, []byte(secretOf(w.secrets(), app)), 0o600))
	w.persist(env, "apps", "apply", file, "--secret-file", secret)
}

// applyAll declares all apps.
func (w *world) applyAll() {
	var applying sync.WaitGroup
	names := make(chan string)
	for range 4 {
		applying.Go(func() {
			for app := range names {
				w.apply(app)
			}
		})
	}
	for _, app := range w.apps() {
		names <- app
	}
	close(names)
	applying.Wait()
}

// awaitLetters waits until an app has dead letters.
func (w *world) awaitLetters(app string) {
	for w.ctx.Err() == nil {
		out, err := w.output("dlq", "list", "--app", app, "--json")
		if err == nil && strings.Contains(string(out), `"id"`) {
			return
		}
		pause(w.ctx, 200*time.Millisecond)
	}
}

// persist runs a command until it succeeds; env is for the first time alone.
func (w *world) persist(env []string, args ...string) {
	for w.ctx.Err() == nil {
		out, err := w.outputWith(env, args...)
		if err == nil {
			return
		}
		env = nil
		if w.ctx.Err() == nil && !killed(err) && w.Context().Err() == nil {
			w.Logf("backstop %s: %v: %.300s", strings.Join(args, " "), err, out)
		}
		pause(w.ctx, 200*time.Millisecond)
	}
}

func endpoint(capability, app string) streams.EndpointID {
	return streams.EndpointID{Capability: capability, App: app}
}
