package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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
	published := make(chan map[target]publication, 1)
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

// publish publishes every event until it is acknowledged, as a service does.
func (r *rig) publish(seed uint64) map[target]publication {
	nc, js := r.connect()
	defer nc.Close()
	publisher, names := streams.NewPublisher(js), apps()
	random := rand.New(rand.NewPCG(seed, 2))
	all := make(map[target]publication, events)
	for i := range events {
		to := target{fmt.Sprintf("event-%d", i), streams.EndpointID{Capability: capability, App: names[random.IntN(len(names))]}}
		payload := fmt.Appendf(nil, `{"n":%d}`, i)
		r.insist(func(ctx context.Context) error {
			_, err := publisher.Publish(ctx, to.EndpointID, to.id, payload)
			return err
		})
		all[to] = publication{at: time.Now(), body: hashOf(payload)}
		pause(r.ctx, publishGap)
	}
	return all
}

// insist does something until it succeeds, as a service does.
func (r *rig) insist(do func(context.Context) error) {
	for r.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
		err := do(ctx)
		cancel()
		if err == nil {
			return
		}
		pause(r.ctx, 20*time.Millisecond)
	}
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
func (r *rig) check(published map[target]publication) {
	r.Helper()
	nc, js := r.connect()
	defer nc.Close()
	r.settle(js)
	b := &books{
		published: published, requests: requests(readRecord(r.T, r.record)), letters: r.deadLetters(js), faults: r.faults.all(),
		maxAttempts: 3, firstWait: 160 * time.Millisecond, mostWait: 800 * time.Millisecond, // less the jitter
	}
	b.audit()
	for _, p := range b.problems {
		r.Error(p)
	}
	r.Log(b)
}

// requests sorts what the receivers have on record by event.
func requests(record []entry) map[target][]entry {
	all := map[target][]entry{}
	for _, e := range record {
		if !e.Callback {
			t := target{e.ID, streams.EndpointID{Capability: e.Capability, App: e.App}}
			all[t] = append(all[t], e)
		}
	}
	return all
}

// deadLetters returns all there are, by event.
func (r *rig) deadLetters(js jetstream.JetStream) map[target][]streams.DeadLetter {
	r.Helper()
	all := map[target][]streams.DeadLetter{}
	for d, err := range streams.NewDeadLetters(js).Select(r.ctx, streams.Filter{}) {
		r.must(err)
		t := target{d.ID, d.EndpointID}
		all[t] = append(all[t], d)
	}
	return all
}
