//go:build e2e

package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/streams"
)

// What is sent in one run.
const (
	faultEvents = 500
	publishers  = 4
	faultCalls  = 60
	trafficGap  = 30 * time.Millisecond // between the events of one publisher
)

// traffic publishes events and makes calls, as many as are asked for or until
// ctx ends, and returns when all events are acknowledged and all calls are over.
func (w *world) traffic(ctx context.Context, events, calls int) {
	nc, js := w.connect()
	defer nc.Close()
	publisher := streams.NewPublisher(js)
	var all sync.WaitGroup
	for n := range publishers {
		random := rand.New(rand.NewPCG(w.seed, uint64(100+n)))
		all.Go(func() {
			for i := n; i < events && ctx.Err() == nil; i += publishers {
				w.publishOne(publisher, random, i)
				pause(w.ctx, time.Duration(random.Int64N(2*int64(w.plan.pace()))))
			}
		})
	}
	all.Go(func() {
		random := rand.New(rand.NewPCG(w.seed, 99))
		for i := 0; i < calls && ctx.Err() == nil; i++ {
			w.callOnce(nc, random, i)
			pause(w.ctx, w.plan.pace())
		}
	})
	all.Wait()
}

// publishOne publishes an event until it is acknowledged. Every thirtieth is a
// broadcast.
func (w *world) publishOne(publisher *streams.Publisher, random *rand.Rand, i int) {
	id, apps := fmt.Sprintf("event-%d", i), w.apps()
	payload := fmt.Appendf(nil, `{"n":%d}`, i)
	if random.IntN(2) == 0 {
		payload = fmt.Appendf(nil, `{"n": %d,  "pad":"%s"}`, i, strings.Repeat("é", random.IntN(6<<10)))
	}
	to := []target{{id, endpoint(capability, apps[random.IntN(len(apps))])}}
	if i%30 == 7 {
		to = to[:0]
		for _, app := range w.takesReports() {
			to = append(to, target{id, endpoint(reports, app)})
		}
	}
	w.insist(func(ctx context.Context) error {
		at := to[0].EndpointID
		if len(to) > 1 {
			at.App = ""
		}
		_, err := publisher.Publish(ctx, at, id, payload)
		return err
	})
	if w.ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range to {
		kind, _, _ := strings.Cut(t.App, "-")
		w.published[t] = publication{at: time.Now(), body: hashOf(payload), owed: kind == "owes" || kind == "calls"}
	}
}

// callOnce makes a call. What it may have left behind - an event, a request
// for a person - counts only when the answer says so.
func (w *world) callOnce(nc *nats.Conn, random *rand.Rand, i int) {
	names := w.isCalled()
	t := target{fmt.Sprintf("call-%d", i), endpoint(scores, names[random.IntN(len(names))])}
	payload := fmt.Appendf(nil, `{"call":%d}`, i)
	p := publication{at: time.Now(), body: hashOf(payload), queued: true, maybe: true}
	w.mu.Lock()
	w.published[t] = p
	w.mu.Unlock()
	msg := nats.NewMsg(t.Subject(streams.Calls))
	msg.Data = payload
	msg.Header.Set(streams.HeaderMsgID, t.id)
	msg.Header.Set(streams.HeaderTimeoutMs, strconv.Itoa(1500))
	answer, err := nc.RequestMsg(msg, 2*time.Second)
	if err != nil {
		return
	}
	var reply streams.Reply
	if err := json.Unmarshal(answer.Data, &reply); err != nil || reply.RequestID != t.id {
		w.problem("call %s to %s got %.200s (%v)", t.id, t.App, answer.Data, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch reply.Source {
	case streams.SourceQueued:
		p.maybe = false
		w.published[t] = p
	case streams.SourcePending:
		w.decided[t.id] = ""
	default:
	}
}

// decide approves what waits for a person. From then on it is an event.
func (w *world) decide() {
	w.mu.Lock()
	var ids []string
	for id, done := range w.decided {
		if done == "" && len(ids) < 5 {
			ids = append(ids, id)
		}
	}
	w.mu.Unlock()
	for _, id := range ids {
		// The second try finds it decided, when the first was cut short.
		for w.ctx.Err() == nil {
			out, err := w.output("pending", "approve", id)
			if err == nil || strings.Contains(string(out), "already") {
				break
			}
			pause(w.ctx, 200*time.Millisecond)
		}
		w.mu.Lock()
		w.decided[id] = "approved"
		for t, p := range w.published {
			if t.id == id {
				p.maybe = false
				w.published[t] = p
			}
		}
		w.mu.Unlock()
	}
}

// replayed and discarded are the apps whose dead letters an operator decides about.
const (
	replayedApp  = "fail-0"
	discardedApp = "reject-0"
)

// operate does what operators do meanwhile. The commands are killed at their
// points, and given again.
func (w *world) operate() {
	kill := func(i int) []string {
		if w.plan.commands[i] == "" {
			return nil
		}
		return []string{"BACKSTOP_KILL=" + w.plan.commands[i]}
	}
	pause(w.ctx, time.Second)
	w.apply("ok-3", kill(0)...)
	pause(w.ctx, 500*time.Millisecond)
	w.apply("flap-1", kill(1)...)
	w.decide()
	pause(w.ctx, time.Second)
	w.persist(kill(2), "dlq", "replay", "--app", replayedApp, "--force")
	w.persist(kill(3), "dlq", "discard", "--app", discardedApp, "--why", "the rig", "--by", "rig", "--force")
	pause(w.ctx, 500*time.Millisecond)
	w.decide()
}
