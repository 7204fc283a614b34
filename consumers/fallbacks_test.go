package consumers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers"
	"backstop/dispatcher"
	"backstop/fallback"
	"backstop/streams"
	"backstop/streams/logtest"
)

func (b *bundle) pendings() *streams.Pendings {
	b.Helper()
	kv, err := b.js.KeyValue(b.ctx, streams.PendingBucket)
	b.must(err)
	return streams.NewPendings(kv)
}

// withFallbacks puts the real stage around the calls of a replica.
func (b *bundle) withFallbacks(c *consumers.Config) {
	c.Fallback = func(p *consumers.Pipeline) dispatcher.Stage {
		return fallback.Stage(fallback.Config{NATS: b.nc, Queue: p.Enqueue, Pendings: b.pendings(), Observe: p.FallbackUsed})
	}
}

// failing declares a webhook for calls that falls back by the given strategies,
// and whose queued events are tried again soon.
func failing(strategies ...map[string]any) map[string]any {
	return takesCalls(map[string]any{
		"fallback": strategies, "breaker": map[string]any{"failureThreshold": 1000},
		"retry": map[string]any{"maxAttempts": 20, "initialDelay": 20, "maxDelay": 50},
	})
}

// TestQueuedCall: a call that falls back to the queue becomes an event of a
// webhook that takes calls only, with the call's id, once.
func TestQueuedCall(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, always(500))
	b.apply("quiz", quiz.URL, failing(map[string]any{"strategy": "queue"}), "score")
	b.start("r1", b.withFallbacks)
	for range 2 {
		got, _ := b.ask("calls.score.quiz", `{"answer": "B"}`, "Nats-Msg-Id", "call-7")
		if !got.Success || got.Source != streams.SourceQueued || got.Reason != "status" {
			t.Fatalf("got %s", asJSON(t, got))
		}
	}
	quiz.setAnswer(answers(200, `{"success":true}`))
	b.settled()
	delivered := 0
	for _, r := range quiz.received() {
		if r.header.Get("X-Request-Id") != "call-7" || r.payload != `{"answer": "B"}` {
			t.Errorf("the app got %q for %s", r.payload, r.header.Get("X-Request-Id"))
		}
	}
	b.mu.Lock()
	for _, out := range b.outcome {
		if out.Verdict == dispatcher.Delivered {
			delivered++
		}
	}
	b.mu.Unlock()
	if delivered != 1 {
		t.Errorf("two calls of one id became %d deliveries, want one", delivered)
	}
	if dead := b.deadLetters(); len(dead) > 0 {
		t.Errorf("dead letters: %+v", dead)
	}
	if s, err := b.js.Stream(b.ctx, streams.LaneStream); err != nil || s.CachedInfo().State.LastSeq < 1 {
		t.Errorf("nothing went through LANES: %v", err)
	}
}

// results returns what is stored for services, by the kind of result.
func (b *bundle) results() map[streams.ResultKind][]streams.Result {
	b.Helper()
	s, err := b.js.Stream(b.ctx, streams.ResultStream)
	b.must(err)
	all := map[streams.ResultKind][]streams.Result{}
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		raw, err := s.GetMsg(b.ctx, seq)
		b.must(err)
		r, err := streams.DecodeResult(raw.Subject, raw.Header, raw.Data)
		b.must(err)
		all[r.Kind] = append(all[r.Kind], r)
	}
	return all
}

// TestDeadLetterOfACallIsReplayed: the event of a call that was queued, or
// approved, goes back to where it came from. Its capability has no stream.
func TestDeadLetterOfACallIsReplayed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(400))
	b.apply("quiz", quiz.URL, takesCalls(), "score")
	p := b.start("r1", b.withFallbacks)
	b.must(p.Enqueue(b.ctx, streams.Event{ID: "queued", EndpointID: endpoint("score", "quiz"), Payload: []byte(`{"n": 1}`)}))
	_, err := b.pendings().Create(b.ctx, streams.PendingRequest{ID: "approved", App: "quiz", Capability: "score", Payload: []byte(`{"n": 1}`)})
	b.must(err)
	_, err = b.pendings().Decide(b.ctx, "approved", true, "ann", "")
	b.must(err)
	for _, d := range b.awaitDeadLetters(2) {
		b.must(b.letters.Replay(b.ctx, d))
	}
	again := b.awaitDeadLetters(2) // it fails once more, which isn't dropped as known
	quiz.forget()
	quiz.setAnswer(answers(200, `{"success":true}`))
	for _, d := range again {
		b.must(b.letters.Replay(b.ctx, d))
	}
	b.settled()
	got := quiz.byID()
	if len(got) != 2 || got["queued"] != 1 || got["approved"] != 1 || len(b.deadLetters()) > 0 {
		t.Errorf("delivered %v, dead letters %+v", got, b.deadLetters())
	}
	for _, r := range quiz.received() {
		if r.payload != `{"n": 1}` || r.header.Get("X-Callback-Url") == "" {
			t.Errorf("the app got %q with %v", r.payload, r.header)
		}
	}
}

// TestPendingCall: a person decides, services learn it, and an approved call
// reaches the app once it works.
func TestPendingCall(t *testing.T) {
	const yes = "Xq3Hc0V1o8kGJ2M4vZbT7e" // as long as those that Backstop makes
	b := setup(t)
	quiz := newApp(b, always(500))
	b.apply("quiz", quiz.URL, failing(map[string]any{"strategy": "pending"}), "register")
	b.start("r1", b.withFallbacks)
	for _, id := range []string{yes, "no"} {
		got, _ := b.ask("calls.register.quiz", `{"who":"Bob"}`, "Nats-Msg-Id", id)
		if !got.Success || got.Source != streams.SourcePending {
			t.Fatalf("got %s", asJSON(t, got))
		}
	}
	b.eventually("the notice", func() bool { return b.hasNotice(streams.NoticePendingCreated) })
	_, err := b.pendings().Decide(b.ctx, yes, true, "ann", "welcome")
	b.must(err)
	_, err = b.pendings().Decide(b.ctx, "no", false, "ann", "")
	b.must(err)
	b.eventually("both decisions to be published", func() bool {
		r := b.results()
		return len(r[streams.ResultApproved]) == 1 && len(r[streams.ResultRejected]) == 1
	})
	approved := b.results()[streams.ResultApproved][0]
	var told struct{ ID, Decision, By, Why string }
	b.must(json.Unmarshal(approved.Payload, &told))
	if approved.ID != yes || told.ID != yes || told.Decision != "approved" || told.By != "ann" || told.Why != "welcome" {
		t.Errorf("the result is for %s: %+v", approved.ID, told)
	}
	b.eventually("both to be marked as done", func() bool {
		for _, id := range []string{yes, "no"} {
			r, err := b.pendings().Get(b.ctx, id)
			b.must(err)
			if !r.Done {
				return false
			}
		}
		return true
	})
	quiz.setAnswer(answers(200, `{"success":true}`))
	b.settled()
	count := quiz.byID()
	if count[yes] < 2 || count["no"] != 1 {
		t.Errorf("requests by id: %v; the approved call's event should have come, and the other's not", count)
	}
	last := quiz.received()[len(quiz.received())-1]
	if last.payload != `{"who":"Bob"}` {
		t.Errorf("the app got %q", last.payload)
	}
	if last.header.Get("X-Callback-Url") == "" {
		t.Error("the approved call has no X-Callback-URL")
	}
}

// TestDecisionsThatWereLeft: what was decided while no pipeline ran is carried
// out by the next, once, also by two of them.
func TestDecisionsThatWereLeft(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, answers(200, `{"success":true}`))
	b.apply("quiz", quiz.URL, failing(map[string]any{"strategy": "pending"}), "register")
	const requests = 20
	for i := range requests {
		id := fmt.Sprint("r", i)
		_, err := b.pendings().Create(b.ctx, streams.PendingRequest{ID: id, App: "quiz", Capability: "register", Payload: []byte(`{}`), Reason: "timeout"})
		b.must(err)
		_, err = b.pendings().Decide(b.ctx, id, true, "ann", "")
		b.must(err)
	}
	b.start("r1", b.withFallbacks)
	b.start("r2", b.withFallbacks)
	b.eventually("the deliveries", func() bool { return len(quiz.byID()) == requests })
	b.settled()
	if got := len(b.results()[streams.ResultApproved]); got != requests {
		t.Errorf("%d results, want %d", got, requests)
	}
	for id, n := range quiz.byID() {
		if n != 1 {
			t.Errorf("%s was delivered %d times", id, n)
		}
	}
}

// TestDecisionWhoseRequestIsGone: a decision can't be made known at once, and
// meanwhile somebody removes its request by hand. The app gets the call once,
// however short LANES de-duplicates, and the decision is not carried out for ever.
func TestDecisionWhoseRequestIsGone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, answers(200, `{"success":true}`))
	b.apply("quiz", quiz.URL, failing(map[string]any{"strategy": "pending"}), "register")
	lanes, err := b.js.Stream(b.ctx, streams.LaneStream)
	b.must(err)
	short := lanes.CachedInfo().Config
	short.Duplicates = 100 * time.Millisecond
	_, err = b.js.UpdateStream(b.ctx, short)
	b.must(err)
	r, err := b.pendings().Create(b.ctx, streams.PendingRequest{ID: "yes", App: "quiz", Capability: "register", Payload: []byte(`{}`)})
	b.must(err)
	js, j := &unsteady{JetStream: b.js, fail: map[string]error{"results.register.quiz": context.DeadlineExceeded}}, &logtest.Buffer{}
	b.start("r1", told(j), func(c *consumers.Config) { c.JetStream = js })
	_, err = b.pendings().Decide(b.ctx, r.Key(), true, "ann", "")
	b.must(err)
	b.eventually("the call", func() bool { return len(quiz.received()) == 1 })
	kv, err := b.js.KeyValue(b.ctx, streams.PendingBucket)
	b.must(err)
	b.must(kv.Purge(b.ctx, r.Key()))
	b.eventually("the decision to be dropped", func() bool { return strings.Contains(j.String(), "its request is gone") })
	b.settled()
	if n := len(quiz.received()); n != 1 || len(b.results()[streams.ResultApproved]) != 1 {
		t.Errorf("the app got the call %d times, and the results are %+v", n, b.results())
	}
}

// TestFallbackNotices: people learn of fallbacks, counted by endpoint and
// reason, and each draw can be checked afterwards.
func TestFallbackNotices(t *testing.T) {
	b := setup(t)
	lottery := newApp(b, always(500))
	b.apply("lottery", lottery.URL, failing(map[string]any{"strategy": "default", "handler": "random-selection"}), "draw")
	r1 := b.start("r1", b.withFallbacks)
	const draws = 4
	for i := range draws {
		got, _ := b.ask("calls.draw.lottery", `{"candidates":["a","b","c"],"count":2}`, "Nats-Msg-Id", fmt.Sprint("d", i))
		if !got.Success || got.Source != streams.SourceDefault || got.Reason != "status" {
			t.Fatalf("got %s", asJSON(t, got))
		}
	}
	b.must(r1.stop()) // what was counted since the first notice goes out
	var audits []any
	counted := 0
	s, err := b.js.Stream(b.ctx, streams.NoticeStream)
	b.must(err)
	for seq := uint64(1); ; {
		raw, err := s.GetMsg(b.ctx, seq, jetstream.WithGetMsgSubject(streams.NoticeSubject(string(streams.NoticeFallbackUsed))))
		if err != nil {
			break
		}
		seq = raw.Sequence + 1
		var n streams.Notice
		b.must(json.Unmarshal(raw.Data, &n))
		if n.App != "lottery" || n.Capability != "draw" || n.Details["reason"] != "status" || time.Since(n.Time) > time.Minute {
			t.Errorf("the notice says %+v", n)
		}
		counted += int(n.Details["count"].(float64))
		audits = append(audits, n.Details["audits"].([]any)...)
	}
	if counted != draws || len(audits) != draws {
		t.Fatalf("%d draws were counted and %d can be audited, of %d", counted, len(audits), draws)
	}
	for i, a := range audits {
		audit := a.(map[string]any)
		if audit["requestId"] != fmt.Sprint("d", i) || audit["seed"] == nil || audit["algorithm"] == nil {
			t.Errorf("the audit of draw %d is %v", i, audit)
		}
	}
}
