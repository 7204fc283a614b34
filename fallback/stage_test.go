package fallback

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/dispatcher/limit"
	"backstop/streams"
	"backstop/streams/manifest"
)

// deliver is the chain as cmd/backstop puts it together.
func deliver(t *testing.T, allowed ...string) dispatcher.Handler {
	t.Helper()
	cfg := dispatcher.PosterConfig{}
	for _, prefix := range allowed {
		cfg.AllowedNetworks = append(cfg.AllowedNetworks, netip.MustParsePrefix(prefix))
	}
	poster := dispatcher.NewPoster(cfg)
	t.Cleanup(poster.Close)
	return dispatcher.Chain(poster.Post,
		dispatcher.Measure(nil),
		dispatcher.Refuse(),
		dispatcher.Breaker(breaker.NewSet(nil)),
		dispatcher.Limit(limit.NewSet()),
		dispatcher.Timeout(),
		dispatcher.Sign(func(string) []string { return []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"} }),
	)
}

// receiver is an app that answers as it is told.
func receiver(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(answer)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func hangs(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // otherwise the server doesn't notice that the client is gone
	<-r.Context().Done()
}

// What an app's answer means for a call: the contract's section 6, row by row,
// with a receiver over HTTP, the table that judges, and a fallback that answers.
func TestCallsByTheContract(t *testing.T) {
	const yes = `{"success":true,"data":{"n":1}}`
	no := func(code, more string) string {
		return `{"success":false,"error":{"code":"` + code + `","message":"m"` + more + `}}`
	}
	refused := func(t *testing.T) string { // a port that nobody listens on
		t.Helper()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return "http://" + l.Addr().String()
	}
	type want struct {
		verdict dispatcher.Verdict
		source  streams.Source
		reason  dispatcher.Reason
		data    string
		code    string // the app's error
	}
	fellBack := func(reason dispatcher.Reason) want {
		return want{dispatcher.Delivered, streams.SourceDefault, reason, `"instead"`, ""}
	}
	rows := []struct {
		row     string
		answer  http.HandlerFunc
		url     func(*testing.T) string // instead of the receiver's
		blocked bool                    // the guard refuses loopback
		refuse  dispatcher.Reason
		want    want
	}{
		{row: "agreed success", answer: answers(200, yes), want: want{verdict: dispatcher.Delivered, data: `{"n":1}`}},
		{row: "agreed success without data", answer: answers(201, `{"success":true}`), want: want{verdict: dispatcher.Delivered}},
		{row: "null is data", answer: answers(200, `{"success":true,"data":null}`), want: want{verdict: dispatcher.Delivered, data: "null"}},
		{row: "empty", answer: answers(200, ""), want: fellBack("bad_response")},
		{row: "no content", answer: answers(204, ""), want: fellBack("bad_response")},
		{row: "another body", answer: answers(200, `{"ok":true}`), want: fellBack("bad_response")},
		{row: "a huge body", answer: answers(200, `{"success":true,"data":"`+strings.Repeat("x", 10<<20)+`"}`), want: fellBack("bad_response")},
		{row: "202", answer: answers(202, ""), want: want{dispatcher.Delivered, streams.SourcePending, "", `{"id":"call-1","status":"pending"}`, ""}},
		{row: "202 with a body", answer: answers(202, yes), want: want{dispatcher.Delivered, streams.SourcePending, "", `{"id":"call-1","status":"pending"}`, ""}},
		{row: "a no", answer: answers(200, no("sold_out", "")), want: want{dispatcher.Rejected, "", "rejected", "", "sold_out"}},
		{row: "a no that is retryable", answer: answers(200, no("busy", `,"retryable":true`)), want: fellBack("rejected")},
		{row: "a no in fallbackOn", answer: answers(200, no("maintenance", "")), want: fellBack("rejected")},
		{row: "a no in fallbackOn, and retryable", answer: answers(200, no("maintenance", `,"retryable":true`)), want: fellBack("rejected")},
		{row: "3xx", answer: answers(302, ""), want: fellBack("status")},
		{row: "no answer in time", answer: hangs, want: fellBack("timeout")},
		{row: "connection refused", url: refused, want: fellBack("connection")},
		{row: "the connection breaks", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: fellBack("connection")},
		{row: "the guard refuses the address", answer: answers(200, yes), blocked: true, want: fellBack("blocked_address")},
		{row: "disabled", answer: answers(200, yes), refuse: dispatcher.ReasonDisabled, want: fellBack("disabled")},
		{row: "paused", answer: answers(200, yes), refuse: dispatcher.ReasonRateLimited, want: fellBack("rate_limited")},
		{row: "429", answer: answers(429, ""), want: fellBack("rate_limited")},
	}
	for _, status := range []int{400, 405, 406, 411, 413, 414, 415, 422, 431, 501, 401, 403, 404, 418, 451, 408, 425, 410, 500, 502, 503, 504, 599} {
		row := rows[0]
		row.row, row.answer, row.want = http.StatusText(status), answers(status, yes), fellBack("status")
		rows = append(rows, row)
	}
	for _, row := range rows {
		t.Run(row.row, func(t *testing.T) {
			t.Parallel()
			c := callWith(`{}`, staticValue(`"instead"`))
			c.Endpoint.FallbackOn, c.Refuse = []string{"maintenance"}, row.refuse
			if row.url != nil {
				c.Endpoint.URL = row.url(t)
			} else {
				c.Endpoint.URL = receiver(t, row.answer)
			}
			if row.row == "no answer in time" {
				c.Endpoint.Timeout = 100 * time.Millisecond
			} else {
				c.Endpoint.Timeout = 20 * time.Second // a busy machine is not what is tested
			}
			networks := []string{"127.0.0.0/8"}
			if row.blocked {
				networks = nil
			}
			var app dispatcher.Outcome
			observe := func(_ dispatcher.Call, o, _ dispatcher.Outcome) { app = o }
			out := dispatcher.Chain(deliver(t, networks...), Stage(Config{Observe: observe}))(t.Context(), c)
			got := want{out.Verdict, out.Source, out.Reason, string(out.Data), ""}
			if out.AppError != nil {
				got.code = out.AppError.Code
			}
			if got != row.want {
				t.Errorf("%+v, want %+v (the app: %v)", got, row.want, app.Err)
			}
		})
	}
}

// An open circuit and a full endpoint: no request is made.
func TestRefusedCallsFallBack(t *testing.T) {
	url := receiver(t, answers(500, ""))
	h := dispatcher.Chain(deliver(t, "127.0.0.0/8"), Stage(Config{}))
	c := callWith(`{}`, rejects)
	c.Endpoint.URL, c.Endpoint.Timeout = url, 20*time.Second
	c.Endpoint.Breaker.FailureThreshold = 1
	h(t.Context(), c)
	if out := h(t.Context(), c); out.Reason != dispatcher.ReasonCircuitOpen || string(out.Data) != `{"accepted":false}` {
		t.Errorf("open circuit: %+v", out)
	}
}

// A fault on our side has a word of its own in logs and none in the contract.
func TestLocalFaultsAreConnectionToTheCaller(t *testing.T) {
	local := dispatcher.Outcome{Verdict: dispatcher.Retry, Reason: dispatcher.ReasonLocal, Err: errors.New("no network")}
	out := Stage(Config{})(app(local))(t.Context(), callWith(`{}`, rejects))
	if out.Reason != dispatcher.ReasonConnection || out.Source != streams.SourceDefault {
		t.Errorf("%+v", out)
	}
}

func TestEventsPassUntouched(t *testing.T) {
	c := callWith(`{}`, rejects)
	c.Sync = false
	observed := false
	h := Stage(Config{Observe: func(dispatcher.Call, dispatcher.Outcome, dispatcher.Outcome) { observed = true }})(
		func(ctx context.Context, _ dispatcher.Call) dispatcher.Outcome {
			if _, ok := ctx.Deadline(); ok {
				t.Error("an event was given a deadline")
			}
			return down
		})
	if out := h(t.Context(), c); out.Source != "" || out.Verdict != dispatcher.Retry || observed {
		t.Errorf("%+v, observed %v", out, observed)
	}
}

// fakes is a stage with strategies of the test, by the order in the list.
func fakes(cfg Config, list ...strategy) (dispatcher.Stage, []manifest.Strategy) {
	cfg.setDefaults()
	byName := map[string]strategy{}
	var how []manifest.Strategy
	for i, s := range list {
		name := string(rune('a' + i))
		byName[name] = s
		how = append(how, manifest.Strategy{Strategy: name})
	}
	return newStage(cfg, byName), how
}

func TestTheFirstThatAnswersDoes(t *testing.T) {
	var order []string
	gives := func(name string) strategy {
		return func(_ context.Context, r request) (answer, error) {
			order = append(order, name)
			if r.reason != dispatcher.ReasonConnection || r.how.Strategy != name {
				t.Errorf("%s was asked as %+v", name, r)
			}
			if name == "a" {
				return answer{}, errors.New("has nothing")
			}
			return answer{source: streams.SourceCache, data: []byte(`1`), age: time.Second, audit: map[string]any{"k": "v"}}, nil
		}
	}
	var told []dispatcher.Outcome
	var tried []string
	stage, list := fakes(Config{Observe: func(c dispatcher.Call, app, answer dispatcher.Outcome) {
		if c.Event.ID != "call-1" || app.Reason != dispatcher.ReasonConnection {
			t.Errorf("observed %+v of %+v", app, c)
		}
		told = append(told, answer)
	}, Tried: func(id streams.EndpointID, strategy string, err error) {
		tried = append(tried, fmt.Sprint(id, " ", strategy, " ", err))
	}}, gives("a"), gives("b"), gives("c"))
	out := stage(app(down))(t.Context(), callWith(`{}`, list...))
	if strings.Join(order, "") != "ab" {
		t.Errorf("asked %v", order)
	}
	if out.Verdict != dispatcher.Delivered || out.Source != streams.SourceCache || string(out.Data) != `1` || out.Age != time.Second ||
		out.Audit["k"] != "v" || out.Reason != dispatcher.ReasonConnection || out.Err != nil || out.Effect != dispatcher.NotCounted {
		t.Errorf("%+v", out)
	}
	if len(told) != 1 || told[0].Source != streams.SourceCache || told[0].Err == nil || told[0].Err.Error() != "a: has nothing" {
		t.Errorf("observed %+v", told)
	}
	id := callWith(`{}`).Endpoint.EndpointID.String()
	if want := []string{id + " a has nothing", id + " b <nil>"}; !slices.Equal(tried, want) {
		t.Errorf("tried %q, want %q", tried, want)
	}
}

func TestWhenNothingAnswersTheAppsOutcomeStands(t *testing.T) {
	later := dispatcher.Outcome{
		Verdict: dispatcher.Retry, Reason: dispatcher.ReasonRejected, Err: errors.New("busy"),
		AppError: &dispatcher.AppError{Code: "busy", Message: "m", Retryable: true},
	}
	for reason, list := range map[string][]manifest.Strategy{
		"no list":         nil,
		"all give up":     {caches, queues, pends, draws, {Strategy: manifest.StrategyDefault, Handler: manifest.HandlerService, Subject: "a"}},
		"unknown":         {{Strategy: "prayer"}},
		"unknown handler": {{Strategy: manifest.StrategyDefault, Handler: "prayer"}},
	} {
		var told []dispatcher.Outcome
		h := Stage(Config{Observe: func(_ dispatcher.Call, _, answer dispatcher.Outcome) { told = append(told, answer) }})(app(later))
		out := h(t.Context(), callWith(`{}`, list...))
		if out.Source != "" || out.AppError != later.AppError || out.Verdict != dispatcher.Retry {
			t.Errorf("%s: %+v", reason, out)
		}
		if len(told) != 1 || told[0].Source != "" || (told[0].Err == nil) != (list == nil) {
			t.Errorf("%s: observed %+v", reason, told)
		}
	}
}

func TestGoodAnswersAreNotObserved(t *testing.T) {
	h := Stage(Config{Observe: func(dispatcher.Call, dispatcher.Outcome, dispatcher.Outcome) { t.Error("observed") }})
	for _, out := range []dispatcher.Outcome{
		{Verdict: dispatcher.Delivered},
		{Verdict: dispatcher.Delivered, Accepted: true},
		{Verdict: dispatcher.Rejected, Reason: dispatcher.ReasonRejected, AppError: &dispatcher.AppError{Code: "no"}},
	} {
		h(app(out))(t.Context(), callWith(`{}`, rejects))
	}
}

// The app is told what really remains for it.
func TestTheAppsTime(t *testing.T) {
	service := manifest.Strategy{Strategy: manifest.StrategyDefault, Handler: manifest.HandlerService, Subject: "a"}
	const ms = time.Millisecond
	tests := []struct {
		reason string
		whole  time.Duration
		list   []manifest.Strategy
		want   time.Duration
	}{
		{"nothing to fall back on", 2000 * ms, nil, 1990 * ms},
		{"a mere value", 2000 * ms, []manifest.Strategy{rejects}, 1989 * ms},
		{"the cache and a value", 2000 * ms, []manifest.Strategy{caches, rejects}, 1939 * ms},
		{"a person", 3000 * ms, []manifest.Strategy{pends}, 2840 * ms},
		{"a service", 2000 * ms, []manifest.Strategy{service}, 1740 * ms},
		{"no more than 30% is kept", 1000 * ms, []manifest.Strategy{service, queues, pends}, 690 * ms},
		{"a short call has less slack", 100 * ms, []manifest.Strategy{service}, 68 * ms},
	}
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.whole)
				defer cancel()
				start := time.Now()
				Stage(Config{})(func(ctx context.Context, _ dispatcher.Call) dispatcher.Outcome {
					if d, ok := ctx.Deadline(); !ok || d.Sub(start) != test.want {
						t.Errorf("%v, want %v", d.Sub(start), test.want)
					}
					return dispatcher.Outcome{Verdict: dispatcher.Delivered}
				})(ctx, callWith(``, test.list...))
			})
		})
	}
}

// A strategy that hangs is left behind at its share, and the next has its own.
func TestEachStrategyHasItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		asked := make(chan time.Duration, 3)
		hang := func(ctx context.Context, _ request) (answer, error) {
			asked <- time.Since(start)
			<-time.After(time.Hour) // whatever ctx says
			return answer{}, ctx.Err()
		}
		last := func(ctx context.Context, _ request) (answer, error) {
			asked <- time.Since(start)
			return answer{data: []byte(`1`), source: streams.SourceDefault}, ctx.Err()
		}
		stage, list := fakes(Config{}, hang, hang, last)
		ctx, cancel := context.WithTimeout(t.Context(), 910*time.Millisecond)
		defer cancel()
		out := stage(app(down))(ctx, callWith(`{}`, list...))
		if out.Source != streams.SourceDefault {
			t.Errorf("%+v", out)
		}
		for i, want := range []time.Duration{0, 300 * time.Millisecond, 600 * time.Millisecond} {
			if d := <-asked; d != want {
				t.Errorf("strategy %d was asked after %v, want %v", i, d, want)
			}
		}
		<-time.After(2 * time.Hour) // those that hang end
	})
}

// A value is given also when the app and all before it took all the time.
func TestAValueNeedsNoTime(t *testing.T) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	out := Stage(Config{})(app(down))(ctx, callWith(`{}`, draws, caches, accepts))
	if out.Source != streams.SourceDefault || string(out.Data) != `{"accepted":true}` {
		t.Errorf("%+v", out)
	}
}
