package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// The run: enough events that every kill falls on some in flight, and limits
// short enough that a sick endpoint is through with its events within a minute.
const (
	events     = 2000
	kills      = 5
	publishGap = 8 * time.Millisecond
	capability = "analytics"
)

// killShadow is how long before a kill something may have happened to an event
// and yet be repeated: what was in flight, and acknowledgements that the server
// had not written down. Webhooks here take at most their timeout of 500 ms.
const killShadow = 1500 * time.Millisecond

// apps are twenty endpoints of all kinds.
func apps() []string {
	var names []string
	for kind, n := range map[string]int{"ok": 8, "slow": 2, "hang": 2, "fail": 2, "flap": 2, "reject": 2, "refuse": 2} {
		for i := range n {
			names = append(names, fmt.Sprintf("%s-%d", kind, i))
		}
	}
	return names
}

func manifestJSON(app, receiver string) []byte {
	base := "http://" + receiver
	if strings.HasPrefix(app, "refuse") {
		base = "http://127.0.0.1:1" // nobody listens there
	}
	timeout := 500
	if strings.HasPrefix(app, "slow") {
		timeout = 5000 // or what it takes in time by its own record comes too late on a busy machine
	}
	data, err := json.Marshal(map[string]any{
		"appId": app, "name": app, "baseUrl": base,
		"webhooks": map[string]any{capability: map[string]any{
			"path": "/" + app, "async": true, "timeout": timeout, "maxAge": 20_000,
			"retry":   map[string]any{"maxAttempts": 3, "initialDelay": 200, "maxDelay": 1000},
			"breaker": map[string]any{"failureThreshold": 5, "recoveryTimeout": 300, "successThreshold": 2},
		}},
	})
	if err != nil {
		panic(err)
	}
	return data
}

// rig is the world of one run.
type rig struct {
	*testing.T
	ctx             context.Context
	binary          string
	dir             string
	addr            string // of the embedded NATS
	http            string // of /readyz
	record          string // the receivers' file
	env             []string
	serve           *exec.Cmd
	exited          chan error
	killed          []time.Time
	client          http.Client
	startedReceiver string // its address
}

// TestNothingIsLost is the promise of the contract's section 2 for one process
// and its embedded server: published = delivered + dead letters.
func TestNothingIsLost(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BACKSTOP_LEDGER_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("seed %d (repeat with BACKSTOP_LEDGER_SEED=%d)", seed, seed)
	random := rand.New(rand.NewPCG(seed, 1))

	r := newRig(t, ctx)
	r.start()
	for _, app := range apps() {
		file := filepath.Join(r.dir, app+".json")
		r.must(os.WriteFile(file, manifestJSON(app, r.startedReceiver), 0o600))
		r.command("apps", "apply", file)
	}
	published := make(chan map[string]publication, 1)
	publishSeed := random.Uint64()
	go func() { published <- r.publish(publishSeed) }()
	for range kills {
		// Waiting for a moment of no meaning is what random kills are made of.
		pause(ctx, time.Duration(1000+random.IntN(3000))*time.Millisecond)
		r.kill()
		r.start()
	}
	r.check(<-published)
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

func newRig(t *testing.T, ctx context.Context) *rig {
	t.Helper()
	r := &rig{T: t, ctx: ctx, dir: t.TempDir(), client: http.Client{Timeout: 2 * time.Second}}
	r.binary, r.record = filepath.Join(r.dir, "backstop"), filepath.Join(r.dir, "record.jsonl")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", r.binary, "backstop/cmd/backstop").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	r.addr, r.http = freeAddr(t), freeAddr(t)
	r.env = append(os.Environ(), "NATS_URL=", "BACKSTOP_NATS_ADDR="+r.addr, "BACKSTOP_HTTP_ADDR="+r.http,
		"BACKSTOP_DATA_DIR="+filepath.Join(r.dir, "data"), "BACKSTOP_ALLOWED_NETWORKS=127.0.0.0/8", "BACKSTOP_LOG_LEVEL=warn")

	self, err := os.Executable()
	r.must(err)
	receiver := exec.CommandContext(ctx, self)
	receiver.Env = append(os.Environ(), receiverEnv+"="+r.record)
	receiver.Stderr = t.Output()
	stdin, err := receiver.StdinPipe()
	r.must(err)
	stdout, err := receiver.StdoutPipe()
	r.must(err)
	r.must(receiver.Start())
	t.Cleanup(func() {
		_ = stdin.Close() // tells it to end
		_ = receiver.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	r.must(err)
	r.startedReceiver = strings.TrimSpace(line)
	return r
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

// start runs backstop serve and waits until it says that it is ready.
func (r *rig) start() {
	r.Helper()
	r.serve = exec.CommandContext(r.ctx, r.binary, "serve")
	r.serve.Env, r.serve.Stderr = r.env, r.Output()
	r.must(r.serve.Start())
	r.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(r.serve, r.exited)
	r.Cleanup(func() { _ = r.serve.Process.Kill() })
	for r.ctx.Err() == nil {
		select {
		case err := <-r.exited:
			r.Fatalf("backstop serve ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		if r.ready() {
			return
		}
	}
	r.Fatal("backstop serve did not get ready")
}

func (r *rig) kill() {
	r.Helper()
	r.must(r.serve.Process.Signal(syscall.SIGKILL))
	if err := <-r.exited; err == nil {
		r.Fatal("backstop serve ended well although it was killed")
	}
	r.killed = append(r.killed, time.Now())
}

func (r *rig) ready() bool {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://"+r.http+"/readyz", nil)
	r.must(err)
	resp, err := r.client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (r *rig) output(args ...string) ([]byte, error) {
	cmd := exec.CommandContext(r.ctx, r.binary, args...)
	cmd.Env = r.env
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
	nc, err := nats.Connect("nats://"+r.addr, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true))
	r.must(err)
	js, err := jetstream.New(nc)
	r.must(err)
	return nc, js
}

// publication is an event that was acknowledged.
type publication struct {
	app string
	at  time.Time
}

// publish publishes every event until it is acknowledged, as a service does,
// and returns what became of each by id.
func (r *rig) publish(seed uint64) map[string]publication {
	nc, js := r.connect()
	defer nc.Close()
	publisher, names := streams.NewPublisher(js), apps()
	random := rand.New(rand.NewPCG(seed, 2))
	to := make(map[string]publication, events)
	for i := range events {
		id, app := fmt.Sprintf("event-%d", i), names[random.IntN(len(names))]
		for r.ctx.Err() == nil {
			ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
			_, err := publisher.Publish(ctx, streams.EndpointID{Capability: capability, App: app}, id, fmt.Appendf(nil, `{"n":%d}`, i))
			cancel()
			if err == nil {
				break
			}
			pause(r.ctx, 20*time.Millisecond)
		}
		to[id] = publication{app, time.Now()}
		pause(r.ctx, publishGap)
	}
	return to
}

// settleTime is how long the rest may take once everything is published: the
// sick endpoints' maxAge of 20 s, and what comes after it.
const settleTime = 75 * time.Second

// settle waits until nothing is pending: not in the shared lane, not in LANES.
func (r *rig) settle(js jetstream.JetStream) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, settleTime)
	defer cancel()
	for ctx.Err() == nil {
		shared, err := js.Consumer(ctx, streams.EventStream(capability), streams.EventConsumer)
		lanes, err2 := js.Stream(ctx, streams.LaneStream)
		if err := errors.Join(err, err2); err != nil {
			r.Logf("asking what is pending: %v", err)
		} else if i := shared.CachedInfo(); i.NumPending == 0 && i.NumAckPending == 0 && lanes.CachedInfo().State.Msgs == 0 {
			return
		}
		pause(ctx, 100*time.Millisecond)
	}
	status, err := r.output("status", "--json")
	r.Logf("status: %s %v", status, err)
	lanes := js.ListStreams(r.ctx)
	for info := range lanes.Info() {
		r.Logf("stream %s: %+v", info.Config.Name, info.State)
	}
	if lane, err := js.Stream(r.ctx, streams.LaneStream); err == nil {
		for info := range lane.ListConsumers(r.ctx).Info() {
			r.Logf("lane %+v", info)
		}
	}
	r.Fatalf("events are still pending")
}

// check compares what was published with what the receivers and the dead
// letters say.
func (r *rig) check(published map[string]publication) {
	r.Helper()
	nc, js := r.connect()
	defer nc.Close()
	r.settle(js)
	requests := r.requests(published)
	dead := r.deadLetters(js, published)
	var lost, delivered, repeated, both int
	for id, p := range published {
		var times []time.Time // of deliveries
		for _, e := range requests[id] {
			if e.Status/100 == 2 {
				times = append(times, e.At)
			}
		}
		if len(times) > 0 {
			delivered++
		}
		letters := dead[id]
		switch {
		case len(letters) == 0 && len(times) == 0:
			lost++
			r.Errorf("event %s for %s is neither delivered nor dead-lettered: LOST", id, p.app)
		case len(letters) > 1:
			r.Errorf("event %s has %d dead letters", id, len(letters))
		case len(letters) == 1 && len(times) > 0:
			both++
			last := times[len(times)-1]
			if failed := letters[0].FailedAt; failed.After(last) {
				last = failed
			}
			if !r.explained(p, requests[id], last) {
				r.Errorf("event %s for %s was delivered at %v and dead-lettered (%s) at %v, and no kill explains it",
					id, p.app, times[0], letters[0].Reason, letters[0].FailedAt)
			}
		}
		for i := 1; i < len(times); i++ {
			repeated++
			if !r.explained(p, requests[id], times[i]) {
				r.Errorf("event %s for %s was delivered at %v and again %v later, and no kill explains it", id, p.app, times[i-1], times[i].Sub(times[i-1]))
			}
		}
		// Three attempts, and one more for each kill that fell on one of them.
		if most := 3 + len(r.killed); len(requests[id]) > most {
			r.Errorf("event %s for %s was tried %d times, want at most %d", id, p.app, len(requests[id]), most)
		}
	}
	r.Logf("published %d = delivered %d + dead-lettered %d − both %d; lost %d; delivered again %d; kills %d",
		len(published), delivered, len(dead), both, lost, repeated, len(r.killed))
}

// requests returns what the receivers have on record, by event.
func (r *rig) requests(published map[string]publication) map[string][]entry {
	r.Helper()
	all := map[string][]entry{}
	for _, e := range readRecord(r.T, r.record) {
		if p, ours := published[e.ID]; !ours || p.app != e.App {
			r.Errorf("a request for event %q at %s, which was never published to it", e.ID, e.App)
		}
		all[e.ID] = append(all[e.ID], e)
	}
	return all
}

// deadLetters returns all there are, by event.
func (r *rig) deadLetters(js jetstream.JetStream, published map[string]publication) map[string][]streams.DeadLetter {
	r.Helper()
	all := map[string][]streams.DeadLetter{}
	for d, err := range streams.NewDeadLetters(js).Select(r.ctx, streams.Filter{}) {
		r.must(err)
		all[d.ID] = append(all[d.ID], d)
		if d.App != published[d.ID].app {
			r.Errorf("event %s for %q was dead-lettered at %q", d.ID, published[d.ID].app, d.App)
		}
	}
	return all
}

// explained tells whether a kill explains that an event was handled once more
// at the given time: one fell before that, on something that had happened to
// the event not long before - it was published, or tried - and may have been
// undone, or left half done, by the kill.
func (r *rig) explained(p publication, requests []entry, again time.Time) bool {
	happened := []time.Time{p.at}
	for _, e := range requests {
		happened = append(happened, e.At)
	}
	for _, k := range r.killed {
		for _, at := range happened {
			if d := k.Sub(at); k.Before(again) && d >= 0 && d < killShadow {
				return true
			}
		}
	}
	return false
}
