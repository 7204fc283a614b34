package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// rig is one `backstop serve` as a child process, and what goes with it: the
// receivers, and how commands and services reach its NATS.
type rig struct {
	*testing.T
	ctx             context.Context
	binary          string
	dir             string
	url             string // of NATS
	http            string // of /readyz
	record          string // the receivers' file
	env             []string
	log             io.Writer // what serve says
	wrap            []string  // what serve is run by; nothing by default
	serve           *exec.Cmd
	exited          chan error
	faults          *faults
	client          http.Client
	startedReceiver string       // its address
	halfOpenAt      string       // the address of one that never reads
	receivers       listening    // all of them
	stopReceiver    func() error // and waits for it
}

// fault is something that was done to a run, from when until when it was over
// for everybody.
type fault struct {
	what     string
	from, to time.Time
	server   bool // of the NATS server as well
}

// faults are those of one run.
type faults struct {
	mu   sync.Mutex
	list []fault
}

func (f *faults) add(one fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, one)
}

func (f *faults) all() []fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]fault(nil), f.list...)
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// build builds the command with the tags, "" for none, and other flags.
func build(t *testing.T, ctx context.Context, tags string, flags ...string) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "backstop")
	args := append(append([]string{"build"}, flags...), "-tags", tags, "-o", binary, "backstop/cmd/backstop")
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

func newRig(t *testing.T, ctx context.Context) *rig {
	t.Helper()
	return newRigOf(t, ctx, build(t, t.Context(), ""), "")
}

// newRigOf has the given program serve. The receivers check signatures if
// secrets is not empty; see secretOf. The environment is for them.
func newRigOf(t *testing.T, ctx context.Context, binary, secrets string, env ...string) *rig {
	t.Helper()
	r := &rig{T: t, ctx: ctx, binary: binary, dir: t.TempDir(), log: t.Output(), faults: &faults{}, client: http.Client{Timeout: 2 * time.Second}}
	r.record = filepath.Join(r.dir, "record.jsonl")
	addr := freeAddr(t)
	r.url, r.http = "nats://"+addr, freeAddr(t)
	r.env = append(os.Environ(), "NATS_URL=", "BACKSTOP_NATS_ADDR="+addr, "BACKSTOP_HTTP_ADDR="+r.http,
		"BACKSTOP_DATA_DIR="+filepath.Join(r.dir, "data"), "BACKSTOP_ALLOWED_NETWORKS=127.0.0.0/8", "BACKSTOP_LOG_LEVEL=warn")
	r.startReceiver(secrets, env)
	return r
}

func (r *rig) startReceiver(secrets string, env []string) {
	r.Helper()
	self, err := os.Executable()
	r.must(err)
	receiver := exec.CommandContext(r.ctx, self)
	receiver.Env = append(append(os.Environ(), receiverEnv+"="+r.record, secretsEnv+"="+secrets), env...)
	receiver.Stderr = r.Output()
	stdin, err := receiver.StdinPipe()
	r.must(err)
	stdout, err := receiver.StdoutPipe()
	r.must(err)
	r.must(receiver.Start())
	r.stopReceiver = sync.OnceValue(func() error {
		_ = stdin.Close() // tells it to end
		return receiver.Wait()
	})
	r.Cleanup(func() { _ = r.stopReceiver() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	r.must(err)
	r.must(json.Unmarshal([]byte(line), &r.receivers))
	r.startedReceiver, r.halfOpenAt = r.receivers.Plain, r.receivers.HalfOpen
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// sibling is one more replica on the same NATS.
func (r *rig) sibling() *rig {
	s := *r
	s.http = freeAddr(r.T)
	s.env = append(append([]string{}, r.env...), "BACKSTOP_HTTP_ADDR="+s.http)
	return &s
}

// start runs backstop serve and waits until it says that it is ready.
func (r *rig) start() {
	r.Helper()
	r.must(r.launch())
	r.must(r.awaitReady())
}

// launch runs backstop serve, with more in its environment.
func (r *rig) launch(env ...string) error {
	command := append(append([]string{}, r.wrap...), r.binary, "serve")
	r.serve = exec.CommandContext(r.ctx, command[0], command[1:]...)
	r.serve.Env, r.serve.Stderr = append(append([]string{}, r.env...), env...), r.log
	if err := r.serve.Start(); err != nil {
		return err
	}
	r.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(r.serve, r.exited)
	process := r.serve.Process
	r.Cleanup(func() { _ = process.Kill() })
	return nil
}

// awaitReady waits until it is ready; the error says that it ended before.
func (r *rig) awaitReady() error {
	for r.ctx.Err() == nil {
		select {
		case err := <-r.exited:
			r.exited <- err // whoever waits for the end sees it as well
			return fmt.Errorf("backstop serve ended: %w", errors.Join(err, errEnded))
		case <-time.After(20 * time.Millisecond):
		}
		if r.ready() {
			return nil
		}
	}
	return fmt.Errorf("backstop serve did not get ready: %w", r.ctx.Err())
}

var errEnded = errors.New("it is not running")

func (r *rig) kill() {
	r.Helper()
	r.must(r.serve.Process.Signal(syscall.SIGKILL))
	if err := <-r.exited; err == nil {
		r.Fatal("backstop serve ended well although it was killed")
	}
	now := time.Now()
	r.faults.add(fault{what: "serve killed", from: now, to: now})
}

// awaitEnd waits for the end of what was killed.
func (r *rig) awaitEnd() {
	if err := <-r.exited; err == nil {
		r.Log("serve ended before it was killed")
	}
}

func (r *rig) ready() bool { return r.says("/readyz") }

// says tells whether serve answers 200 at a path.
func (r *rig) says(path string) bool {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://"+r.http+path, nil)
	if err != nil {
		return false
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (r *rig) output(args ...string) ([]byte, error) { return r.outputWith(nil, args...) }

// outputWith runs a command with more in its environment.
func (r *rig) outputWith(env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(r.ctx, r.binary, args...)
	cmd.Env = append(append([]string{}, r.env...), env...)
	if r.url != "" {
		cmd.Env = append(cmd.Env, "NATS_URL="+r.url)
	}
	return cmd.CombinedOutput()
}

func (r *rig) command(args ...string) {
	r.Helper()
	if out, err := r.output(args...); err != nil {
		r.Fatalf("backstop %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// connect returns a client as a service has one.
func (r *rig) connect() (*nats.Conn, jetstream.JetStream) {
	nc, err := nats.Connect(r.url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true))
	r.must(err)
	js, err := jetstream.New(nc)
	r.must(err)
	return nc, js
}
