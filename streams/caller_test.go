package streams_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/embedded/natstest"
	"backstop/streams"
)

var answer = streams.EndpointID{Capability: "quizAnswer", App: "quiz"}

// plenty is more than any call here takes on a slow machine.
const plenty = 30 * time.Second

// line is a caller's connection to a broker, on which respond answers calls.
type line struct {
	*testing.T
	ctx context.Context
	srv *natstest.Server
	nc  *nats.Conn
}

func startLine(t *testing.T) *line {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), plenty)
	t.Cleanup(cancel)
	srv := natstest.Start(t)
	return &line{T: t, ctx: ctx, srv: srv, nc: srv.Conn()}
}

// respond answers every call with what reply returns, and doesn't answer for nil.
func (l *line) respond(reply func(*nats.Msg) []byte) {
	l.Helper()
	nc := l.srv.Conn()
	_, err := nc.Subscribe("calls.*.*", func(msg *nats.Msg) {
		if data := reply(msg); data != nil {
			_ = msg.Respond(data)
		}
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		l.Fatal(err)
	}
}

func TestCallSaysWhoAnswered(t *testing.T) {
	l := startLine(t)
	var seen nats.Header
	l.respond(func(msg *nats.Msg) []byte {
		seen = msg.Header
		return fmt.Appendf(nil, `{"success":true,"data":{"was":%s},"source":"cache","reason":"timeout","requestId":%q,"durationMs":2003,"ageMs":1500}`,
			msg.Data, msg.Header.Get(streams.HeaderMsgID))
	})
	reply, err := streams.NewCaller(l.nc).Call(l.ctx, answer, "answer-1", []byte(`{"a": 1}`), streams.WithTrace("00-abc", "k=v"))
	if err != nil {
		t.Fatal(err)
	}
	if !reply.Success || string(reply.Data) != `{"was":{"a": 1}}` || reply.Source != streams.SourceCache || reply.Reason != "timeout" ||
		reply.RequestID != "answer-1" || reply.DurationMs != 2003 || reply.Age() != 1500*time.Millisecond {
		t.Errorf("reply %+v", reply)
	}
	for name, want := range map[string]string{"Nats-Msg-Id": "answer-1", "traceparent": "00-abc", "tracestate": "k=v"} {
		if got := seen.Get(name); got != want {
			t.Errorf("header %s is %q, want %q", name, got, want)
		}
	}
}

func TestCallTellsItsDeadline(t *testing.T) {
	l := startLine(t)
	headers := make(chan nats.Header, 1)
	l.respond(func(msg *nats.Msg) []byte {
		headers <- msg.Header
		return []byte(`{"success":true,"source":"app"}`)
	})
	caller := streams.NewCaller(l.nc)
	for _, tc := range []struct {
		timeout     time.Duration // 0: none
		least, most int
		why         string
	}{
		{0, 5_000, 10_000, "no deadline is the default of 10 s"},
		{20 * time.Second, 15_000, 20_000, "what remains of a deadline"},
		{100 * 365 * 24 * time.Hour, 3_600_000, 3_600_000, "a deadline beyond reason is still a number that can be read"},
	} {
		ctx, cancel := context.Background(), context.CancelFunc(func() {})
		if tc.timeout > 0 {
			ctx, cancel = context.WithTimeout(ctx, tc.timeout)
		}
		reply, err := caller.Call(ctx, answer, "", []byte(`{}`))
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", tc.why, err)
		}
		h := <-headers
		got, err := strconv.Atoi(h.Get("X-Timeout-Ms"))
		if err != nil || got < tc.least || got > tc.most {
			t.Errorf("%s: X-Timeout-Ms is %q, want %d to %d", tc.why, h.Get("X-Timeout-Ms"), tc.least, tc.most)
		}
		if id := h.Get("Nats-Msg-Id"); !streams.ValidID(id) || reply.RequestID != id {
			t.Errorf("%s: the id made is %q, the reply says %q", tc.why, id, reply.RequestID)
		}
	}
}

// Every error that Backstop answers with is told apart by its code, on this
// side of the wire too.
func TestCallErrorsSurviveTheWire(t *testing.T) {
	sentinels := map[string]error{
		streams.CodeAppUnavailable:   streams.ErrAppUnavailable,
		streams.CodeAppBusy:          streams.ErrAppBusy,
		streams.CodeEndpointDisabled: streams.ErrEndpointDisabled,
		streams.CodeNoRoute:          streams.ErrNoRoute,
		streams.CodeNotACall:         streams.ErrNotACall,
		streams.CodeBadPayload:       streams.ErrBadPayload,
		streams.CodePayloadTooLarge:  streams.ErrTooLarge,
		streams.CodeBadTimeout:       streams.ErrBadTimeout,
		streams.CodeDeadlineExceeded: streams.ErrDeadlineExceeded,
		streams.CodeInternal:         streams.ErrInternal,
	}
	guide, err := os.ReadFile("../docs/services.md")
	if err != nil {
		t.Fatal(err)
	}
	l := startLine(t)
	l.respond(func(msg *nats.Msg) []byte { // the payload is the error to answer with
		return fmt.Appendf(nil, `{"success":false,%s,"requestId":"r1","durationMs":3}`, bytes.TrimSuffix(bytes.TrimPrefix(msg.Data, []byte("{")), []byte("}")))
	})
	// Whatever the reply says, a local fallback has no part in it.
	caller := streams.NewCaller(l.nc, streams.WithLocalFallback(func(_ context.Context, err error) (json.RawMessage, error) {
		t.Errorf("the local fallback was asked after a reply: %v", err)
		return nil, err
	}))
	call := func(source streams.Source, code string) (streams.Reply, error) {
		return caller.Call(l.ctx, answer, "", fmt.Appendf(nil, `{"source":%q,"reason":"status","error":{"code":%q,"message":"Sorry."}}`, source, code))
	}
	for code, want := range sentinels {
		if !bytes.Contains(guide, []byte("\n| `"+code+"` | ")) {
			t.Errorf("docs/services.md has no row for %s", code)
		}
		reply, err := call(streams.SourceNone, code)
		var detail *streams.CallError
		if !errors.As(err, &detail) {
			t.Fatalf("%s: %v is no CallError", code, err)
		}
		if (*detail != streams.CallError{Code: code, Message: "Sorry.", Source: streams.SourceNone, Reason: "status", RequestID: "r1"}) {
			t.Errorf("%s: %+v", code, detail)
		}
		if reply.Success || reply.Error == nil || reply.RequestID != "r1" {
			t.Errorf("%s: reply %+v with the error", code, reply)
		}
		for other, sentinel := range sentinels {
			if errors.Is(err, sentinel) != (other == code) {
				t.Errorf("%s: errors.Is(err, %v) is %v", code, sentinel, other != code)
			}
		}
		if text := err.Error(); text != "call quizAnswer/quiz: Sorry. ("+code+", status)" {
			t.Errorf("%s reads %q", code, text)
		}
		// An app that spells its code like one of ours speaks for itself alone.
		if _, err := call(streams.SourceApp, code); errors.Is(err, want) {
			t.Errorf("%s of an app passes for Backstop's", code)
		}
	}
	_, err = call(streams.SourceApp, "already\nanswered")
	var detail *streams.CallError
	if !errors.As(err, &detail) || detail.Code != "already\nanswered" || detail.Source != streams.SourceApp {
		t.Errorf("an app's own error came as %+v", detail)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("an app can write lines of a log: %q", err)
	}
	if _, err := call(streams.SourceNone, "made_up_later"); !errors.As(err, &detail) || detail.Code != "made_up_later" {
		t.Errorf("a code of a later Backstop came as %v", err)
	}
}

func TestCallRefusesWhatIsNoReply(t *testing.T) {
	l := startLine(t)
	l.respond(func(msg *nats.Msg) []byte {
		var text string
		if err := json.Unmarshal(msg.Data, &text); err != nil {
			t.Error(err)
		}
		return []byte(text)
	})
	for _, reply := range []string{
		``, `hello`, `[]`, `null`, `{}`, `{"success":true}`, `{"success":false,"source":"none"}`, `{"success":"yes","source":"app"}`,
		`{"success":true,"source":"app","error":{"code":"no_route","message":"?"}}`, `{"success":true,"source":"app"} trailing`,
	} {
		payload, err := json.Marshal(reply)
		if err != nil {
			t.Fatal(err)
		}
		got, err := streams.NewCaller(l.nc).Call(l.ctx, answer, "garbled", payload)
		if !errors.Is(err, streams.ErrBadReply) || !strings.Contains(err.Error(), "quizAnswer/quiz") {
			t.Errorf("reply %q: %v, want ErrBadReply", reply, err)
		}
		if got.Success || got.RequestID != "garbled" {
			t.Errorf("reply %q became %+v", reply, got)
		}
	}
}

func TestCallRefusesBeforeItAsks(t *testing.T) {
	l := startLine(t)
	l.respond(func(msg *nats.Msg) []byte {
		t.Errorf("a request went out on %s", msg.Subject)
		return nil
	})
	cancelled, cancel := context.WithCancel(l.ctx)
	cancel()
	late, cancel := context.WithTimeout(l.ctx, time.Microsecond)
	defer cancel()
	<-late.Done()
	for _, tc := range []struct {
		ctx     context.Context
		to      streams.EndpointID
		id      string
		payload []byte
		want    error
		text    string
		why     string
	}{
		{to: answer, payload: bytes.Repeat([]byte("1"), streams.MaxPayload+1), want: streams.ErrTooLarge, text: "256 KiB", why: "a byte too much"},
		{to: answer, id: "not an id", text: "letters, digits", why: "an id outside the alphabet"},
		{to: streams.EndpointID{Capability: "quizAnswer"}, text: "app", why: "a call is for one app"},
		{to: streams.EndpointID{Capability: "quizAnswer", App: ">"}, text: "app", why: "an app that is no token"},
		{to: streams.EndpointID{Capability: "a.b", App: "quiz"}, text: "capability", why: "a capability that is no token"},
		{ctx: cancelled, to: answer, want: context.Canceled, why: "given up before it began"},
		{ctx: late, to: answer, want: context.DeadlineExceeded, why: "late before it began"},
	} {
		if tc.ctx == nil {
			tc.ctx = l.ctx
		}
		_, err := streams.NewCaller(l.nc).Call(tc.ctx, tc.to, tc.id, tc.payload)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: got %v, want %v with %q", tc.why, err, tc.want, tc.text)
		}
	}
}

// Without a replica the broker says so at once: nobody waits for the deadline.
func TestCallWithoutBackstopFailsAtOnce(t *testing.T) {
	l := startLine(t)
	start := time.Now()
	reply, err := streams.NewCaller(l.nc).Call(l.ctx, answer, "", []byte(`{}`))
	if !errors.Is(err, streams.ErrNoBackstop) || errors.Is(err, streams.ErrUnavailable) {
		t.Errorf("no replica: %v, want ErrNoBackstop", err)
	}
	if waited := time.Since(start); waited > plenty/2 {
		t.Errorf("no replica, and the call took %v", waited)
	}
	if !streams.ValidID(reply.RequestID) || reply.Source != streams.SourceNone {
		t.Errorf("the failed call is %+v: its id is needed to try again", reply)
	}
}

func TestCallEndsAtItsDeadline(t *testing.T) {
	l := startLine(t)
	l.respond(func(*nats.Msg) []byte { return nil })
	ctx, cancel := context.WithTimeout(l.ctx, 20*time.Millisecond)
	defer cancel()
	_, err := streams.NewCaller(l.nc).Call(ctx, answer, "", []byte(`{}`))
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, streams.ErrUnavailable) {
		t.Errorf("no reply: %v, want the context's error alone", err)
	}
}

func TestCallOnALostConnection(t *testing.T) {
	l := startLine(t)
	asked := make(chan struct{}, 1)
	l.respond(func(*nats.Msg) []byte {
		asked <- struct{}{}
		return nil
	})
	caller := streams.NewCaller(l.nc)
	var middle sync.WaitGroup
	middle.Go(func() {
		if _, err := caller.Call(l.ctx, answer, "", []byte(`{}`)); !errors.Is(err, streams.ErrUnavailable) {
			t.Errorf("lost in the middle: %v, want ErrUnavailable", err)
		}
	})
	<-asked
	l.srv.Stop()
	middle.Wait() // and not until the deadline
	if err := l.ctx.Err(); err != nil {
		t.Fatal("the call waited for its deadline")
	}
	if _, err := caller.Call(l.ctx, answer, "", []byte(`{}`)); !errors.Is(err, streams.ErrUnavailable) {
		t.Errorf("lost before: %v, want ErrUnavailable", err)
	}
	l.nc.Close()
	if _, err := caller.Call(l.ctx, answer, "", []byte(`{}`)); !errors.Is(err, streams.ErrUnavailable) {
		t.Errorf("closed: %v, want ErrUnavailable", err)
	}
}

func TestLocalFallback(t *testing.T) {
	silent := func(l *line) { l.respond(func(*nats.Msg) []byte { return nil }) }
	within := func(d time.Duration) func(*line) (context.Context, context.CancelFunc) {
		return func(l *line) (context.Context, context.CancelFunc) { return context.WithTimeout(l.ctx, d) }
	}
	cancelled := func(l *line) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(l.ctx)
		cancel()
		return ctx, cancel
	}
	for _, tc := range []struct {
		why    string
		before func(*line)
		ctx    func(*line) (context.Context, context.CancelFunc)
		cause  error
		reason string // empty: it is not asked
	}{
		{"no replica runs", func(*line) {}, within(plenty), streams.ErrNoBackstop, "no_backstop"},
		{"the connection is lost", func(l *line) { l.nc.Close() }, within(plenty), streams.ErrUnavailable, "connection"},
		{"no reply in time", silent, within(20 * time.Millisecond), context.DeadlineExceeded, "timeout"},
		{"no time to begin with", silent, within(0), context.DeadlineExceeded, "timeout"},
		{"the caller gave up", silent, cancelled, context.Canceled, ""},
	} {
		t.Run(tc.why, func(t *testing.T) {
			l := startLine(t)
			tc.before(l)
			call := func(failure error) (streams.Reply, error) {
				ctx, cancel := tc.ctx(l)
				defer cancel()
				caller := streams.NewCaller(l.nc, streams.WithLocalFallback(func(ctx context.Context, err error) (json.RawMessage, error) {
					if tc.reason == "" || !errors.Is(err, tc.cause) || ctx.Err() != nil {
						t.Errorf("asked because of %v, with a context that is over: %v", err, ctx.Err())
					}
					return json.RawMessage(`{"accepted":true}`), failure
				}))
				return caller.Call(ctx, answer, "here", []byte(`{}`))
			}
			reply, err := call(nil)
			if tc.reason == "" {
				if !errors.Is(err, tc.cause) {
					t.Errorf("got %+v, %v; want %v", reply, err, tc.cause)
				}
				return
			}
			if err != nil || !reply.Success || string(reply.Data) != `{"accepted":true}` || reply.Source != streams.SourceLocal ||
				reply.Reason != tc.reason || reply.RequestID != "here" {
				t.Errorf("got %+v, %v; want the local answer, reason %s", reply, err, tc.reason)
			}
			broken := errors.New("nothing here either")
			reply, err = call(broken)
			if reply.Success || !errors.Is(err, broken) || !errors.Is(err, tc.cause) {
				t.Errorf("a fallback that fails: %+v, %v; want both errors", reply, err)
			}
		})
	}
}
