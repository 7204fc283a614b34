package health

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"backstop/dispatcher"
	"backstop/streams"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // net/http logs what hostile apps send unasked
	goleak.VerifyTestMain(m)
}

func newPoster(t *testing.T, allowed ...netip.Prefix) *dispatcher.Poster {
	t.Helper()
	p := dispatcher.NewPoster(dispatcher.PosterConfig{AllowedNetworks: allowed, UserAgent: "Backstop/1.2.3"})
	t.Cleanup(p.Close)
	return p
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func TestJudge(t *testing.T) {
	body := func(s string) dispatcher.Answer { return dispatcher.Answer{Status: 200, Body: []byte(s)} }
	lost := errors.New("no answer within 5s")
	for _, tc := range []struct {
		why    string
		answer dispatcher.Answer
		want   streams.HealthState
		reason dispatcher.Reason
		says   string
	}{
		{"2xx is healthy", dispatcher.Answer{Status: 204}, streams.Healthy, "", ""},
		{"whatever it says", body("<html>fine</html>"), streams.Healthy, "", ""},
		{"also in JSON", body(`{"status":"ok","checks":{"db":"degraded"}}`), streams.Healthy, "", ""},
		{"a status that is no word", body(`{"status":200}`), streams.Healthy, "", ""},
		{"JSON that is no object", body(`["degraded"]`), streams.Healthy, "", ""},
		{"deeply nested", body(strings.Repeat("[", 60_000)), streams.Healthy, "", ""},
		{"its own word", body(`{"status":"degraded"}`), streams.Degraded, "", "says itself that it is degraded"},
		{"in any case", body(`{"status":"DEGRADED"}`), streams.Degraded, "", "says itself"},
		{"as in the draft for health checks over HTTP", body(`{"status":"warn"}`), streams.Degraded, "", "says itself"},
		{"unhealthy by its own word", body(`{"status":"unhealthy"}`), streams.Unhealthy, "", "says itself that it is unhealthy"},
		{"as other frameworks put it", body(`{"status":"DOWN"}`), streams.Unhealthy, "", "says itself"},
		{"just not slow", dispatcher.Answer{Status: 200, Duration: SlowAfter}, streams.Healthy, "", ""},
		{"slow", dispatcher.Answer{Status: 200, Duration: SlowAfter + time.Millisecond}, streams.Degraded, "", "slow: it took 2.501s"},
		{"slow and bad is bad", dispatcher.Answer{Status: 500, Duration: SlowAfter + 1}, streams.Unhealthy, dispatcher.ReasonStatus, "500"},
		{"503", dispatcher.Answer{Status: 503, Body: []byte(`{"status":"degraded"}`)}, streams.Unhealthy, dispatcher.ReasonStatus, "the app answered 503 Service Unavailable"},
		{"404", dispatcher.Answer{Status: 404}, streams.Unhealthy, dispatcher.ReasonStatus, "404 Not Found"},
		{"a redirect", dispatcher.Answer{Status: 302}, streams.Unhealthy, dispatcher.ReasonStatus, "redirects are not followed"},
		{"101", dispatcher.Answer{Status: 101}, streams.Unhealthy, dispatcher.ReasonStatus, "101"},
		{"a status of its own invention", dispatcher.Answer{Status: 799}, streams.Unhealthy, dispatcher.ReasonStatus, "the app answered 799"},
		{"no answer", dispatcher.Answer{Reason: dispatcher.ReasonTimeout, Err: lost}, streams.Unhealthy, dispatcher.ReasonTimeout, "no answer within 5s"},
		{"half an answer", dispatcher.Answer{Status: 200, Reason: dispatcher.ReasonConnection, Err: lost}, streams.Unhealthy, dispatcher.ReasonConnection, "no answer"},
		{"refused by the guard", dispatcher.Answer{Reason: dispatcher.ReasonBlockedAddress, Err: lost}, streams.Unhealthy, dispatcher.ReasonBlockedAddress, ""},
		{"our own fault says nothing", dispatcher.Answer{Reason: dispatcher.ReasonLocal, Err: lost}, streams.HealthUnknown, dispatcher.ReasonLocal, ""},
	} {
		got := judge(tc.answer)
		says := ""
		if got.Err != nil {
			says = got.Err.Error()
		}
		if got.State != tc.want || got.Reason != tc.reason || !strings.Contains(says, tc.says) || (got.State == streams.Healthy) != (says == "") {
			t.Errorf("%s: %s, reason %q, %q; want %s, %q, %q", tc.why, got.State, got.Reason, says, tc.want, tc.reason, tc.says)
		}
	}
}

// raw serves one answer, byte for byte, to each connection.
func raw(t *testing.T, answer string, hang bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, answer)
			}
			if hang {
				_, _ = io.Copy(io.Discard, c) // until the client hangs up
			}
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return "http://" + l.Addr().String() + "/health"
}

func TestCheckOfRealReceivers(t *testing.T) {
	poster := newPoster(t, loopback)
	var request atomic.Pointer[http.Request]
	fine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request.Store(r)
		fmt.Fprint(w, `{"status":"ok"}`)
	}))
	defer fine.Close()
	elsewhere := httptest.NewServer(http.RedirectHandler(fine.URL, http.StatusFound))
	defer elsewhere.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	flood := strings.Repeat("x", 1<<20)

	for _, tc := range []struct {
		name, url string
		want      streams.HealthState
		reason    dispatcher.Reason
	}{
		{"fine", fine.URL + "/health?deep=1", streams.Healthy, ""},
		{"redirect", elsewhere.URL, streams.Unhealthy, dispatcher.ReasonStatus},
		{"closed port", closed.URL, streams.Unhealthy, dispatcher.ReasonConnection},
		{"garbage", raw(t, "\x00\xff\x1b[31mSSH-2.0-"+flood+"\r\n\r\n", false), streams.Unhealthy, dispatcher.ReasonConnection},
		{"hangs up", raw(t, "", false), streams.Unhealthy, dispatcher.ReasonConnection},
		{"endless body", raw(t, "HTTP/1.1 200 OK\r\n\r\n"+flood, true), streams.Healthy, ""},
		{"broken body", raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", false), streams.Unhealthy, dispatcher.ReasonConnection},
		{"no URL", "http://[", streams.Unhealthy, dispatcher.ReasonConnection},
	} {
		got := Check(t.Context(), poster, tc.url)
		if got.State != tc.want || got.Reason != tc.reason {
			t.Errorf("%s: %s because of %q (%v), want %s, %q", tc.name, got.State, got.Reason, got.Err, tc.want, tc.reason)
		}
		if got.Err != nil && (len(got.Err.Error()) > 300 || strings.ContainsAny(got.Err.Error(), "\n\x1b")) {
			t.Errorf("%s: the error is not a short line: %q", tc.name, got.Err)
		}
	}
	asked := request.Load()
	if asked == nil || asked.Method != http.MethodGet || asked.UserAgent() != "Backstop/1.2.3" || asked.RequestURI != "/health?deep=1" ||
		asked.Header.Get("Accept-Encoding") != "" || asked.Header.Get("X-Platform-Signature") != "" {
		t.Errorf("the request was %+v", asked)
	}
}

func TestCheckEndsWithItsTimeout(t *testing.T) {
	start := time.Now()
	got := Check(t.Context(), newPoster(t, loopback), raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", true))
	if got.State != streams.Unhealthy || got.Reason != dispatcher.ReasonTimeout || time.Since(start) < Timeout {
		t.Errorf("after %v: %+v", time.Since(start), got)
	}
}

func TestGuardRefusesHealthURLs(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the app was reached") }))
	defer srv.Close()
	got := Check(t.Context(), newPoster(t), srv.URL)
	if got.State != streams.Unhealthy || got.Reason != dispatcher.ReasonBlockedAddress || !strings.Contains(got.Err.Error(), "BACKSTOP_ALLOWED_NETWORKS") {
		t.Errorf("%+v", got)
	}
	if got := Check(t.Context(), newPoster(t, netip.MustParsePrefix("0.0.0.0/0")), "http://169.254.169.254/latest"); got.Reason != dispatcher.ReasonBlockedAddress {
		t.Errorf("metadata service: %+v", got)
	}
}

func TestMetrics(t *testing.T) {
	poster := newPoster(t, loopback)
	status, body := 200, ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	defer srv.Close()
	for _, tc := range []struct {
		why    string
		status int
		body   string
		want   streams.MetricsState
	}{
		{"a sample", 200, "up 1\n", streams.MetricsPresent},
		{"an error", 500, "up 1\n", streams.MetricsMissing},
		{"a web page", 200, "<!DOCTYPE html>\n<p>up 1", streams.MetricsMissing},
		{"more than is read", 200, strings.Repeat("a_total{path=\"/x y\"} 12.5 1700000000\n", 5000), streams.MetricsPresent},
		{"one line that is longer than is read", 200, "a" + strings.Repeat("a", 1<<17), streams.MetricsMissing},
	} {
		status, body = tc.status, tc.body
		if got := Metrics(t.Context(), poster, srv.URL+"/metrics"); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.why, got, tc.want)
		}
	}
	if got := Metrics(t.Context(), poster, ""); got != streams.MetricsMissing {
		t.Errorf("none declared: %s, want missing", got)
	}
}

func TestExposition(t *testing.T) {
	for _, tc := range []struct {
		body string
		cut  bool
		want bool
		why  string
	}{
		{"# HELP up Whether.\n# TYPE up gauge\nup 1\n", false, true, "Prometheus"},
		{"up{a=\"b\",c=\"d}\"} -1.5e+3\n\nx:y NaN\nz +Inf 1700000000000\n", false, true, "labels, times, all kinds of numbers"},
		{"# TYPE a counter\na_total 1 # {trace_id=\"x\"} 1\n# EOF\n", false, true, "OpenMetrics with an exemplar"},
		{"{\"my.metric\",a=\"b\"} 1\r\n", false, true, "a quoted name, and CRLF"},
		{"# TYPE up gauge\n", false, true, "announced, and no sample yet"},
		{"up 1\nhalf_a_na", true, true, "cut in the middle of a line"},
		{"up 1\nhalf_a_na", false, false, "not cut: a line that is no sample"},
		{"", false, false, "nothing"},
		{"\n\n", false, false, "nothing, twice"},
		{"# Welcome\n", false, false, "Markdown"},
		{"up one\n", false, false, "a value that is none"},
		{`{"status": 1}`, false, false, "JSON"},
		{"ok", false, false, "a word"},
	} {
		if got := exposition([]byte(tc.body), tc.cut); got != tc.want {
			t.Errorf("%q, cut %v: %v, want %v: %s", tc.body, tc.cut, got, tc.want, tc.why)
		}
	}
}

func FuzzExposition(f *testing.F) {
	f.Add([]byte("# TYPE up gauge\nup 1\n"), false)
	f.Add([]byte("up{a=\"b\"} 1\nhal"), true)
	f.Fuzz(func(t *testing.T, body []byte, cut bool) {
		// Text stays what it is behind comments, and is none behind a web page.
		if exposition(body, cut) && exposition(append([]byte("<html>\n"), body...), cut) {
			t.Errorf("a web page passes for metrics: %q", body)
		}
		if exposition(body, cut) != exposition(append([]byte("# note\n\n"), body...), cut) {
			t.Errorf("a comment changes what it is: %q", body)
		}
	})
}

func FuzzJudge(f *testing.F) {
	f.Add(200, []byte(`{"status":"degraded"}`))
	f.Add(302, []byte(``))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		r := judge(dispatcher.Answer{Status: status, Body: body})
		if good := status >= 200 && status <= 299; !good && r.State != streams.Unhealthy || r.State == streams.HealthUnknown {
			t.Errorf("status %d: %s", status, r.State)
		}
		if (r.State == streams.Healthy) != (r.Err == nil) {
			t.Errorf("%s with the error %v", r.State, r.Err)
		}
	})
}
