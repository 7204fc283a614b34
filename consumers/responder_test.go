package consumers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"backstop/consumers"
	"backstop/streams"
)

// takesCalls declares a webhook that takes calls.
func takesCalls(more ...map[string]any) map[string]any {
	hook := map[string]any{"async": false, "timeout": 1000}
	for _, m := range more {
		maps.Copy(hook, m)
	}
	return hook
}

// ask makes a call as a service would and returns the reply and how long it took.
func (b *bundle) ask(subject, payload string, header ...string) (streams.Reply, time.Duration) {
	b.Helper()
	msg := nats.NewMsg(subject)
	msg.Data = []byte(payload)
	for i := 0; i < len(header); i += 2 {
		msg.Header.Set(header[i], header[i+1])
	}
	began := time.Now()
	answer, err := b.nc.RequestMsg(msg, 15*time.Second)
	took := time.Since(began)
	b.must(err)
	var r streams.Reply
	b.must(json.Unmarshal(answer.Data, &r))
	if r.Success != (answer.Header.Get(micro.ErrorHeader) == "") {
		b.Errorf("success is %v, and the header %s is %q", r.Success, micro.ErrorHeader, answer.Header.Get(micro.ErrorHeader))
	}
	return r, took
}

func answers(status int, body string) func(*http.Request) (int, http.Header, string) {
	return func(*http.Request) (int, http.Header, string) { return status, nil, body }
}

// TestCallAnswers is the contract's section 6 for calls, without fallbacks.
func TestCallAnswers(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, answers(200, ""))
	b.apply("quiz", quiz.URL, takesCalls(map[string]any{"breaker": map[string]any{"failureThreshold": 1000}}), "score")
	b.start("r1")
	for _, c := range []struct {
		name   string
		answer func(*http.Request) (int, http.Header, string)
		want   streams.Reply
	}{
		{
			"data reaches the caller as it is", answers(200, `{"success":true,"data":{"points": 7}}`),
			streams.Reply{Success: true, Data: json.RawMessage(`{"points":7}`), Source: streams.SourceApp},
		},
		{"no data is an answer, too", answers(200, `{"success":true}`), streams.Reply{Success: true, Source: streams.SourceApp}},
		{
			"the app's no is the app's answer", answers(200, `{"success":false,"error":{"code":"CLOSED","message":"the quiz is over"}}`),
			streams.Reply{Error: &streams.ReplyError{Code: "CLOSED", Message: "the quiz is over"}, Source: streams.SourceApp},
		},
		{
			"a no that may be retried is none", answers(200, `{"success":false,"error":{"code":"BUSY","message":"later","retryable":true}}`),
			none("rejected"),
		},
		{"accepted: the result comes later", answers(202, ``), streams.Reply{Success: true, Source: streams.SourcePending}},
		{"empty", answers(200, ``), none("bad_response")},
		{"another JSON", answers(200, `{"ok":true}`), none("bad_response")},
		{"a redirect", answers(302, ``), none("status")},
		{"a client error", answers(400, ``), none("status")},
		{"unauthorized", answers(401, ``), none("status")},
		{"a server error", answers(500, ``), none("status")},
		{"too many requests", answers(429, ``), none("rate_limited")},
	} {
		t.Run(c.name, func(t *testing.T) {
			quiz.setAnswer(c.answer)
			got, _ := b.ask("calls.score.quiz", `{"a":1}`)
			if got.RequestID == "" {
				t.Error("the reply has no request id")
			}
			got.RequestID, got.DurationMs = "", 0
			if c.want.Error != nil && got.Error != nil && c.want.Source == streams.SourceNone {
				if got.Error.Message == "" {
					t.Error("the error says nothing")
				}
				got.Error.Message = ""
			}
			if g, w := asJSON(t, got), asJSON(t, c.want); g != w {
				t.Errorf("got  %s\nwant %s", g, w)
			}
		})
	}
	b.eventually("the notice of a misconfigured app", func() bool { return b.hasNotice(streams.NoticeMisconfigured) })
	before := len(quiz.received())
	if got, _ := b.ask("calls.score.quiz", `{}`); got.Reason != "rate_limited" || got.Error.Code != streams.CodeAppBusy {
		t.Errorf("after a 429 the app is left alone, and the caller got %+v", got)
	}
	if len(quiz.received()) != before {
		t.Error("the app that had answered 429 was asked at once")
	}
}

func none(reason string) streams.Reply {
	code := streams.CodeAppUnavailable
	if reason == "rate_limited" {
		code = streams.CodeAppBusy
	}
	return streams.Reply{Error: &streams.ReplyError{Code: code}, Source: streams.SourceNone, Reason: reason}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestCallRequest: what the app is told of a call.
func TestCallRequest(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, answers(200, `{"success":true,"data":1}`))
	b.apply("quiz", quiz.URL, takesCalls(), "score")
	b.start("r1")
	payload := `{ "kept" : "byte for byte" }`
	got, _ := b.ask("calls.score.quiz", payload, "Nats-Msg-Id", "call-1", "X-Timeout-Ms", "700", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if got.RequestID != "call-1" {
		t.Errorf("the reply is for %q", got.RequestID)
	}
	r := quiz.received()[0]
	if r.payload != payload || r.path != "/score" {
		t.Errorf("the app got %q at %s", r.payload, r.path)
	}
	for name, want := range map[string]string{"X-Request-Id": "call-1", "X-Platform-Attempt": "1", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if ms, err := strconv.Atoi(r.header.Get("X-Timeout-Ms")); err != nil || ms > 700-10 || ms < 300 {
		t.Errorf("the app was told that it has %q ms of 700", r.header.Get("X-Timeout-Ms"))
	}
	odd, _ := b.ask("calls.score.quiz", `{}`, "Nats-Msg-Id", "not an id!")
	again, _ := b.ask("calls.score.quiz", `{}`, "Nats-Msg-Id", "not an id!")
	if !streams.ValidID(odd.RequestID) || odd.RequestID != again.RequestID {
		t.Errorf("an id outside the alphabet became %q, and then %q", odd.RequestID, again.RequestID)
	}
}

func TestCallBadInput(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, answers(200, `{"success":true,"data":1}`))
	b.apply("quiz", quiz.URL, takesCalls(), "score")
	b.apply("stats", quiz.URL, nil, "analytics")
	b.start("r1")
	for _, c := range []struct {
		name, subject, payload string
		header                 []string
		code, reason           string
	}{
		{"not JSON", "calls.score.quiz", "{", nil, streams.CodeBadPayload, "bad_payload"},
		{"not UTF-8", "calls.score.quiz", "\"\xff\"", nil, streams.CodeBadPayload, "bad_payload"},
		{"empty", "calls.score.quiz", "", nil, streams.CodeBadPayload, "bad_payload"},
		{"too large", "calls.score.quiz", `"` + strings.Repeat("x", streams.MaxPayload) + `"`, nil, streams.CodePayloadTooLarge, "bad_payload"},
		{"unknown app", "calls.score.nobody", "{}", nil, streams.CodeNoRoute, "no_route"},
		{"unknown capability", "calls.nothing.quiz", "{}", nil, streams.CodeNoRoute, "no_route"},
		{"an app whose name can't be one", "calls.score.-x", "{}", nil, streams.CodeNoRoute, "no_route"},
		{"no app", "calls.score", "{}", nil, streams.CodeNoRoute, "no_route"},
		{"too many tokens", "calls.score.quiz.more", "{}", nil, streams.CodeNoRoute, "no_route"},
		{"events only", "calls.analytics.stats", "{}", nil, streams.CodeNotACall, "no_route"},
		{"a word for a number", "calls.score.quiz", "{}", []string{"X-Timeout-Ms", "soon"}, streams.CodeBadTimeout, "bad_payload"},
		{"a fraction", "calls.score.quiz", "{}", []string{"X-Timeout-Ms", "1.5"}, streams.CodeBadTimeout, "bad_payload"},
		{"no time", "calls.score.quiz", "{}", []string{"X-Timeout-Ms", "0"}, streams.CodeDeadlineExceeded, "timeout"},
		{"less than no time", "calls.score.quiz", "{}", []string{"X-Timeout-Ms", "-5"}, streams.CodeDeadlineExceeded, "timeout"},
		{"next to no time", "calls.score.quiz", "{}", []string{"X-Timeout-Ms", "1"}, streams.CodeDeadlineExceeded, "timeout"},
		{"far less than no time", "calls.score.quiz", "{}", []string{"X-Timeout-Ms", "-99999999999999999999"}, streams.CodeDeadlineExceeded, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, took := b.ask(c.subject, c.payload, c.header...)
			if got.Success || got.Error.Code != c.code || got.Reason != c.reason || got.Source != streams.SourceNone || got.Error.Message == "" {
				t.Errorf("got %s, want the code %s and the reason %s", asJSON(t, got), c.code, c.reason)
			}
			if took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	if n := len(quiz.received()); n > 0 {
		t.Errorf("the app got %d requests", n)
	}
	for _, enormous := range []string{"3600001", "9223372036854775807", "99999999999999999999"} {
		if got, _ := b.ask("calls.score.quiz", "{}", "X-Timeout-Ms", enormous); !got.Success {
			t.Errorf("X-Timeout-Ms: %s: %s", enormous, asJSON(t, got))
		}
	}
	b.must(b.nc.PublishMsg(&nats.Msg{Subject: "calls.score.quiz", Data: []byte(`{"nobody":"waits"}`)}))
	b.must(b.nc.Flush())
	b.ask("calls.score.quiz", `{"last":true}`) // it comes after, on the same connection
	for _, r := range quiz.received() {
		if strings.Contains(r.payload, "nobody") {
			t.Error("a call that nobody waits for was made")
		}
	}
}

// TestCallAnsweredWhereWeListen: who may make calls, and no more, names buckets
// and lanes as the reply subject.
func TestCallAnsweredWhereWeListen(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz, o := newApp(b, answers(200, `{"success":true}`)), &observed{}
	b.apply("quiz", quiz.URL, takesCalls(), "score")
	id := endpoint("score", "quiz")
	b.must(b.gates.Set(b.ctx, streams.Gate{Capability: "score", App: "quiz", State: streams.GateForced, Since: time.Now(), By: "ann"}))
	b.start("r1", func(c *consumers.Config) { c.Observer = o })
	replies := []string{
		"$KV.breakers.score.quiz", "$JS.API.STREAM.PURGE.LANES", "lanes.score.quiz", "events.score.quiz", "dlq.score.quiz", "notices.x",
		"results.score.quiz", "attempts.score.quiz", "audit.x", "calls.score.quiz", "replicas.alive", "fallback.x", "retired.events.score",
	}
	for _, reply := range replies {
		b.must(b.nc.PublishRequest("calls.score.quiz", reply, []byte(`{}`)))
	}
	b.eventually("all to be counted", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.calls) >= len(replies)
	})
	if got, _ := b.ask("calls.score.quiz", `{}`); got.Reason != "circuit_open" { // flushes what was answered before
		t.Errorf("a call while an operator holds the endpoint open got %+v", got)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, counted := range o.calls[:len(replies)] {
		if counted != (streams.EndpointID{}) {
			t.Errorf("a call was made: %v", counted)
		}
	}
	if g := b.gate(id); g != streams.GateForced || len(quiz.received()) > 0 {
		t.Errorf("the operator's gate is %q, and the app got %d requests", g, len(quiz.received()))
	}
}

// TestCallDeadline: whatever the app does, the answer comes before the
// deadline, which is the smaller of the webhook's and the caller's.
func TestCallDeadline(t *testing.T) {
	b := setup(t)
	slow := newApp(b, hang(b))
	b.apply("quiz", slow.URL, takesCalls(map[string]any{"timeout": 600, "breaker": map[string]any{"failureThreshold": 1000}}), "score")
	b.start("r1")
	for _, c := range []struct {
		header string
		within time.Duration
	}{{"", 600 * time.Millisecond}, {"300", 300 * time.Millisecond}, {"5000", 600 * time.Millisecond}} {
		var header []string
		if c.header != "" {
			header = []string{"X-Timeout-Ms", c.header}
		}
		limit := c.within.Milliseconds()
		var tookMs []int64 // a busy machine may be late once, and is in time soon
		for range 10 {
			got, _ := b.ask("calls.score.quiz", `{}`, header...)
			if got.Reason != "timeout" || got.Error.Code != streams.CodeAppUnavailable {
				t.Errorf("X-Timeout-Ms %q: %s", c.header, asJSON(t, got))
			}
			if tookMs = append(tookMs, got.DurationMs); got.DurationMs < limit {
				break
			}
		}
		if took := tookMs[len(tookMs)-1]; took >= limit || took < limit/2 {
			t.Errorf("X-Timeout-Ms %q: answered after %v ms of %d", c.header, tookMs, limit)
		}
	}
}

// TestCallsBesideEachOther: a hanging app's calls keep nobody else's waiting,
// more of them than may be in flight are told so at once, and an open circuit
// answers at once.
func TestCallsBesideEachOther(t *testing.T) {
	b := setup(t)
	slow, fast := newApp(b, hang(b)), newApp(b, answers(200, `{"success":true,"data":1}`))
	b.apply("slow", slow.URL, takesCalls(map[string]any{"timeout": 2000, "concurrency": 4}), "score")
	b.apply("fast", fast.URL, takesCalls(map[string]any{"concurrency": 1024}), "score")
	b.start("r1")
	var wg sync.WaitGroup
	var saturated, timedOut atomic.Int64
	for range 20 {
		wg.Go(func() {
			switch got, _ := b.ask("calls.score.slow", `{}`); got.Reason {
			case "saturated":
				saturated.Add(1)
			case "timeout":
				timedOut.Add(1)
			default:
				t.Errorf("a call to the slow app: %s", asJSON(t, got))
			}
		})
	}
	b.eventually("the slow app to be busy", func() bool { return len(slow.received()) == 4 })
	for range 50 {
		wg.Go(func() {
			if got, _ := b.ask("calls.score.fast", `{}`); !got.Success {
				t.Errorf("a call to the fast app: %s", asJSON(t, got))
			}
		})
	}
	b.eventually("the fast app's calls", func() bool { return len(fast.received()) == 50 })
	if n := timedOut.Load(); n > 0 {
		t.Errorf("%d of the slow app's calls were over before the fast app had its own", n)
	}
	wg.Wait()
	if saturated.Load() != 16 || timedOut.Load() != 4 {
		t.Errorf("%d calls were saturated and %d timed out, want 16 and 4", saturated.Load(), timedOut.Load())
	}
	b.ask("calls.score.slow", `{}`) // the fifth failure
	before := len(slow.received())
	if got, _ := b.ask("calls.score.slow", `{}`); got.Reason != "circuit_open" || got.DurationMs > 1000 {
		t.Errorf("the circuit is open, and the caller got %s", asJSON(t, got))
	}
	if len(slow.received()) != before {
		t.Error("a request was made while the circuit is open")
	}
	b.eventually("the notice", func() bool { return b.hasNotice(streams.NoticeBreakerOpened) })
}

// TestCallDisables: 410 switches the endpoint off, for calls as for events.
func TestCallDisables(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, answers(410, ""))
	b.apply("quiz", quiz.URL, takesCalls(), "score")
	b.start("r1")
	id := endpoint("score", "quiz")
	if got, _ := b.ask("calls.score.quiz", `{}`); got.Reason != "status" {
		t.Errorf("got %s", asJSON(t, got))
	}
	b.eventually("the endpoint to be disabled", func() bool {
		g, there, err := b.gates.Get(b.ctx, id)
		b.must(err)
		return there && g.State == streams.GateDisabled
	})
	if got, _ := b.ask("calls.score.quiz", `{}`); got.Reason != "disabled" || got.Error.Code != streams.CodeEndpointDisabled {
		t.Errorf("got %s", asJSON(t, got))
	}
	if n := len(quiz.received()); n != 1 {
		t.Errorf("%d requests, want one", n)
	}
}

// TestCallsAcrossReplicas: two share the work, one leaves in the middle, and
// every caller has its answer; when none is left, callers are told at once.
func TestCallsAcrossReplicas(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, answers(200, `{"success":true,"data":1}`))
	b.apply("quiz", quiz.URL, takesCalls(map[string]any{"concurrency": 1024, "timeout": 10000}), "score")
	r1, r2 := b.start("r1"), b.start("r2")
	reply, err := b.nc.Request("$SRV.PING.backstop-calls", nil, 5*time.Second)
	b.must(err)
	if !strings.Contains(string(reply.Data), "io.nats.micro.v1.ping_response") {
		t.Errorf("a ping was answered with %s", reply.Data)
	}
	const calls = 300
	var wg sync.WaitGroup
	for i := range calls {
		if i == calls/2 {
			wg.Go(func() {
				if err := r1.stop(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if got, _ := b.ask("calls.score.quiz", fmt.Sprintf(`{"i":%d}`, i)); !got.Success {
				t.Errorf("call %d: %s", i, asJSON(t, got))
			}
		})
	}
	wg.Wait()
	b.must(r2.stop())
	began := time.Now()
	if _, err := b.nc.Request("calls.score.quiz", []byte(`{}`), 10*time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("with no replica left a call ends with %v, want no responders", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestCallToANewApp: a manifest that was applied a moment ago holds.
func TestCallToANewApp(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, answers(200, `{"success":true,"data":1}`))
	b.start("r1")
	for i := range 20 {
		app := fmt.Sprint("app", i)
		b.apply(app, quiz.URL, takesCalls(), "score")
		if got, _ := b.ask("calls.score."+app, `{}`); !got.Success {
			t.Errorf("%s: %s", app, asJSON(t, got))
		}
	}
}
