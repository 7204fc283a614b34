package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// oldEnv names a program of an earlier version, which the replicas of a rolling
// upgrade are replaced from.
const oldEnv = "BACKSTOP_UPGRADE_FROM"

// TestRollingUpgrade: three replicas under steady traffic are stopped with
// SIGTERM and started again one after the other. Every event is delivered once,
// and every call is answered by its app, as if nothing had happened.
func TestRollingUpgrade(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	srv := natstest.Start(t, natstest.Listen())
	r := newRig(t, ctx)
	r.url = srv.URL()
	r.env = append(r.env, "NATS_URL="+r.url)
	fresh := r.binary
	if old := os.Getenv(oldEnv); old != "" {
		r.binary = old
		r.env = slices.DeleteFunc(r.env, func(s string) bool { return strings.HasPrefix(s, oldEnv+"=") }) // no setting
	}
	replicas := []*rig{r, r.sibling(), r.sibling()}
	for _, one := range replicas {
		one.start()
	}
	apps := []string{"ok-0", "slow-0"}
	r.applySteady(apps)
	nc, js := r.connect()
	defer nc.Close()
	r.awaitWatch(nc, len(replicas))
	configs := r.configs(js)

	traffic, stop := context.WithCancel(ctx)
	defer stop()
	var busy sync.WaitGroup
	calls := &answers{sources: map[streams.Source]int{}}
	for i := range 4 {
		busy.Go(func() { r.callSteadily(traffic, nc, fmt.Sprint(i), calls) })
	}
	published := make(map[target]publication)
	busy.Go(func() { r.publishSteadily(traffic, js, apps, published) })

	for i, one := range replicas {
		pause(ctx, time.Second)
		r.must(one.serve.Process.Signal(syscall.SIGTERM))
		if err := <-one.exited; err != nil {
			t.Errorf("replica %d ended with %v after SIGTERM", i, err)
		}
		one.binary = fresh
		one.start()
		r.awaitWatch(nc, len(replicas))
		if os.Getenv(oldEnv) != "" {
			pause(ctx, 5*time.Second) // old and new beside each other
			r.Logf("with %d of %d replaced: %s", i+1, len(replicas), changed(configs, r.configs(js)))
		}
	}
	pause(ctx, time.Second)
	stop()
	busy.Wait()
	if d := changed(configs, r.configs(js)); d != "nothing" && os.Getenv(oldEnv) == "" {
		t.Errorf("the upgrade changed streams: %s", d)
	}
	r.settle(js)
	b := &books{
		published: published, requests: requests(readRecord(t, r.record)), letters: r.deadLetters(js),
		maxAttempts: 3, firstWait: 160 * time.Millisecond, mostWait: 800 * time.Millisecond,
	}
	b.audit()
	for _, p := range b.problems { // there was no fault that would explain a repetition
		t.Error(p)
	}
	if b.dead > 0 || b.delivered != len(published) || len(published) < 100 {
		t.Errorf("%d of %d events were delivered, %d dead-lettered", b.delivered, len(published), b.dead)
	}
	t.Log(b)
	t.Logf("calls by source %v, the slowest after %v", calls.sources, calls.slowest)
	if calls.sources[streams.SourceApp] < 50 {
		t.Errorf("%d calls: the test shows less than it says", calls.sources[streams.SourceApp])
	}
}

// applySteady declares apps that take events, and one, "score", that takes
// calls. All have much time: a busy machine is no fault.
func (r *rig) applySteady(apps []string) {
	r.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		pause(req.Context(), 50*time.Millisecond)
		ok(w)
	}))
	r.Cleanup(srv.Close)
	args := []string{"apps", "apply"}
	add := func(app, url, hook string) {
		file := filepath.Join(r.dir, app+".json")
		r.must(os.WriteFile(file, fmt.Appendf(nil, `{"appId":%q,"name":%q,"baseUrl":"http://%s","webhooks":{%s}}`, app, app, url, hook), 0o600))
		args = append(args, file)
	}
	for _, app := range apps {
		add(app, r.startedReceiver, fmt.Sprintf(`%q:{"path":"/%s","async":true,"timeout":20000}`, capability, app))
	}
	add("score", strings.TrimPrefix(srv.URL, "http://"), `"score":{"path":"/","async":false,"timeout":10000}`)
	r.command(args...)
}

// publishSteadily publishes until ctx ends.
func (r *rig) publishSteadily(ctx context.Context, js jetstream.JetStream, apps []string, all map[target]publication) {
	publisher := streams.NewPublisher(js)
	for i := 0; ctx.Err() == nil; i++ {
		to := target{fmt.Sprintf("event-%d", i), streams.EndpointID{Capability: capability, App: apps[i%len(apps)]}}
		payload := fmt.Appendf(nil, `{"n":%d}`, i)
		r.insist(func(ctx context.Context) error {
			_, err := publisher.Publish(ctx, to.EndpointID, to.id, payload)
			return err
		})
		all[to] = publication{at: time.Now(), body: hashOf(payload)}
		pause(ctx, 10*time.Millisecond)
	}
}

// answers is what became of steady calls.
type answers struct {
	sync.Mutex
	sources map[streams.Source]int
	slowest time.Duration
}

// callSteadily makes a call after the other until ctx ends, and expects the
// app's answer to each.
func (r *rig) callSteadily(ctx context.Context, nc *nats.Conn, name string, sum *answers) {
	for n := 0; ctx.Err() == nil; n++ {
		msg := nats.NewMsg("calls.score.score")
		msg.Data = []byte(`{"n":1}`)
		msg.Header.Set(streams.HeaderMsgID, fmt.Sprintf("call-%s-%d", name, n))
		began := time.Now()
		answer, err := nc.RequestMsg(msg, 15*time.Second)
		if err != nil {
			r.Errorf("call %d of %s: %v", n, name, err)
			return
		}
		var reply streams.Reply
		if err := json.Unmarshal(answer.Data, &reply); err != nil || reply.Source != streams.SourceApp {
			r.Errorf("call %d of %s: %s %v", n, name, answer.Data, err)
		}
		sum.Lock()
		sum.sources[reply.Source]++
		sum.slowest = max(sum.slowest, time.Since(began))
		sum.Unlock()
		pause(ctx, 20*time.Millisecond)
	}
}

// configs returns how every stream and its durables are configured.
func (r *rig) configs(js jetstream.JetStream) map[string]string {
	r.Helper()
	found := make(map[string]string)
	list := js.ListStreams(r.ctx)
	for info := range list.Info() {
		config, err := json.Marshal(info.Config)
		r.must(err)
		found[info.Config.Name] = string(config)
		stream, err := js.Stream(r.ctx, info.Config.Name)
		r.must(err)
		consumers := stream.ListConsumers(r.ctx)
		for c := range consumers.Info() {
			if c.Config.Durable != "" && info.Config.Name != streams.LaneStream {
				config, err := json.Marshal(c.Config)
				r.must(err)
				found[info.Config.Name+"/"+c.Name] = string(config)
			}
		}
		if err := consumers.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
			r.Fatal(err)
		}
	}
	if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		r.Fatal(err)
	}
	return found
}

// changed names what is configured in another way than before.
func changed(before, after map[string]string) string {
	var names []string
	for name, config := range after {
		if before[name] != config {
			names = append(names, fmt.Sprintf("%s: %s, before %s", name, config, before[name]))
		}
	}
	for name := range before {
		if after[name] == "" {
			names = append(names, name+" is gone")
		}
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, "; ")
}
