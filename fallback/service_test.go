package fallback

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/dispatcher"
	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/manifest"
)

var asks = manifest.Strategy{Strategy: manifest.StrategyDefault, Handler: manifest.HandlerService, Subject: "fallback.quiz"}

// listen answers requests on the subject of asks.
func listen(t *testing.T, nc *nats.Conn, answer func(*nats.Msg)) {
	t.Helper()
	sub, err := nc.Subscribe(asks.Subject, answer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestServiceIsAsked(t *testing.T) {
	nc := natstest.Start(t).Conn()
	listen(t, nc, func(m *nats.Msg) {
		for header, want := range map[string]string{
			"Nats-Msg-Id": "call-1", "Backstop-App": "quiz", "Backstop-Capability": "quizAnswer", "Backstop-Reason": "timeout",
			"traceparent": "00-parent", "tracestate": "a=b",
		} {
			if got := m.Header.Get(header); got != want {
				t.Errorf("%s is %q, want %q", header, got, want)
			}
		}
		if ms, err := strconv.Atoi(m.Header.Get("X-Timeout-Ms")); err != nil || ms < 1 || ms > 20_000 {
			t.Errorf("X-Timeout-Ms is %q", m.Header.Get("X-Timeout-Ms"))
		}
		_ = m.Respond([]byte(`{"success":true,"data":` + string(m.Data) + `}`))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a, err := strategies(Config{NATS: nc})[manifest.StrategyDefault](ctx, requestWith(`{"q": 1}`, asks))
	if err != nil || a.source != streams.SourceDefault || string(a.data) != `{"q": 1}` {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestServiceGivesUp(t *testing.T) {
	nc := natstest.Start(t).Conn()
	ask := func(t *testing.T, patience time.Duration) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := service(nc)(ctx, requestWith(`{}`, asks))
		return err
	}
	if err := ask(t, 20*time.Second); err == nil || !strings.Contains(err.Error(), "no service answers on fallback.quiz") {
		t.Errorf("nobody there: %v", err)
	}
	for _, test := range []struct {
		reason string
		answer func(*nats.Msg)
		want   string
	}{
		{"a no", func(m *nats.Msg) { _ = m.Respond([]byte(`{"success":false,"error":"secret"}`)) }, "said no"},
		{"an error by header", func(m *nats.Msg) {
			r := nats.NewMsg(m.Reply)
			r.Header.Set("Nats-Service-Error", "secret")
			r.Data = []byte(`{"success":true}`)
			_ = m.RespondMsg(r)
		}, "answered with an error"},
		{"an error's code by header", func(m *nats.Msg) {
			r := nats.NewMsg(m.Reply)
			r.Header.Set("Nats-Service-Error-Code", "500")
			_ = m.RespondMsg(r)
		}, "answered with an error"},
		{"nothing", func(m *nats.Msg) { _ = m.Respond(nil) }, "answered nothing"},
		{"not JSON", func(m *nats.Msg) { _ = m.Respond([]byte(`secret`)) }, "not JSON"},
		{"too much", func(m *nats.Msg) { _ = m.Respond(bytes.Repeat([]byte("1"), 64<<10+1)) }, "64 KiB"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			listen(t, nc, test.answer)
			err := ask(t, 20*time.Second)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v, want %q and nothing of the answer", err, test.want)
			}
		})
	}
	t.Run("late", func(t *testing.T) {
		listen(t, nc, func(*nats.Msg) {})
		if err := ask(t, 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "deadline") {
			t.Errorf("error %v", err)
		}
	})
}

func TestServiceAnswers(t *testing.T) {
	for _, test := range []struct{ body, want string }{
		{`{"success":true,"data":{"n":1}}`, `{"n":1}`},
		{`{"success":true,"data":null}`, `null`},
		{`{"success":true}`, ``},
		{`{"accepted":true}`, `{"accepted":true}`},
		{`{"success":"true","data":1}`, `{"success":"true","data":1}`},
		{`{"Success":false,"data":1}`, `{"Success":false,"data":1}`},
		{`[1]`, `[1]`},
		{`"x"`, `"x"`},
		{`null`, `null`},
		{` 7 `, ` 7 `},
	} {
		if got, err := serviceAnswer([]byte(test.body)); err != nil || string(got) != test.want {
			t.Errorf("%s: %s, %v, want %s", test.body, got, err, test.want)
		}
	}
}

// What a service says is JSON or an error.
func FuzzServiceAnswer(f *testing.F) {
	for _, body := range []string{`{"success":true,"data":1}`, `{"success":false}`, `[]`, ``, `{`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		data, err := serviceAnswer(body)
		if err == nil && data != nil && !json.Valid(data) {
			t.Fatalf("%q became %q", body, data)
		}
	})
}

// With NATS away, the next strategy answers in its time.
func TestServiceWithoutNATS(t *testing.T) {
	srv := natstest.Start(t)
	nc := srv.Conn()
	srv.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	out := Stage(Config{NATS: nc})(app(down))(ctx, callWith(`{}`, asks, accepts))
	if out.Source != streams.SourceDefault || string(out.Data) != `{"accepted":true}` || out.Reason != dispatcher.ReasonConnection {
		t.Errorf("%+v", out)
	}
}
