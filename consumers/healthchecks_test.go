package consumers_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers"
	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/streams"
)

// checks makes a replica check health, as a User-Agent of its own.
func (b *bundle) checks(replica string, interval time.Duration, allowed ...netip.Prefix) func(*consumers.Config) {
	poster := dispatcher.NewPoster(dispatcher.PosterConfig{AllowedNetworks: allowed, UserAgent: "Backstop/" + replica})
	b.Cleanup(poster.Close)
	return func(c *consumers.Config) { c.Health = consumers.HealthConfig{Interval: interval, Get: poster} }
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func (b *bundle) healths() *streams.Healths {
	b.Helper()
	kv, err := b.js.KeyValue(b.ctx, streams.HealthBucket)
	b.must(err)
	return streams.NewHealths(kv)
}

// awaitHealth waits until the entry of an app is as it should be.
func (b *bundle) awaitHealth(app, what string, holds func(streams.Health) bool) streams.Health {
	b.Helper()
	store := b.healths()
	var last streams.Health
	b.eventually(app+" to be "+what, func() bool {
		h, there, err := store.Get(b.ctx, app)
		b.must(err)
		last = h
		return there && holds(h)
	})
	return last
}

func is(state streams.HealthState) func(streams.Health) bool {
	return func(h streams.Health) bool { return h.State == state }
}

// notices counts the notices of a kind.
func (b *bundle) notices(kind streams.NoticeKind) int {
	b.Helper()
	s, err := b.js.Stream(b.ctx, streams.NoticeStream)
	b.must(err)
	info, err := s.Info(b.ctx, jetstream.WithSubjectFilter(streams.NoticeSubject(string(kind))))
	b.must(err)
	return int(info.State.Subjects[streams.NoticeSubject(string(kind))])
}

// byPath answers each path in its own way.
func byPath(answers map[string]string) func(*http.Request) (int, http.Header, string) {
	return func(r *http.Request) (int, http.Header, string) {
		body, ok := answers[r.URL.Path]
		if !ok {
			return 404, nil, ""
		}
		return 200, nil, body
	}
}

// tally counts what checks said.
type tally struct {
	mu     sync.Mutex
	checks map[streams.HealthState]int
}

func (c *tally) count(result streams.HealthState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checks[result]++
}

// TestHealthOfAnApp is the life of an app, as its health checks see it.
func TestHealthOfAnApp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	fine := byPath(map[string]string{"/health": `{"status":"ok"}`, "/metrics": "# TYPE up gauge\nup 1\n"})
	quiz := newApp(b, fine)
	seen := &tally{checks: map[streams.HealthState]int{}}
	b.start("r1", b.checks("r1", 200*time.Millisecond, loopback), func(c *consumers.Config) { c.Health.Observe = seen.count })
	b.apply("quiz", quiz.URL, nil, "analytics")

	h := b.awaitHealth("quiz", "healthy", is(streams.Healthy))
	if h.Status != 200 || h.Metrics != streams.MetricsPresent || h.By != "r1" || h.Failures != 0 || h.Error != "" || time.Since(h.CheckedAt) > 30*time.Second {
		t.Errorf("the entry says %+v", h)
	}
	for _, r := range quiz.received() {
		if r.path != "/health" && r.path != "/metrics" || r.header.Get("User-Agent") != "Backstop/r1" {
			t.Errorf("the app was asked for %s by %s", r.path, r.header.Get("User-Agent"))
		}
	}
	since := h.Since
	quiz.setAnswer(always(503))
	h = b.awaitHealth("quiz", "unhealthy", is(streams.Unhealthy))
	if h.Status != 503 || h.Reason != "status" || h.Error != "the app answered 503 Service Unavailable" || h.Failures < 2 || !h.Since.After(since) {
		t.Errorf("the entry says %+v", h)
	}
	if h.Metrics != streams.MetricsPresent {
		t.Errorf("metrics are %s because the app is down", h.Metrics)
	}
	quiz.setAnswer(byPath(map[string]string{"/health": `{"status":"degraded"}`}))
	h = b.awaitHealth("quiz", "degraded, without metrics", func(h streams.Health) bool {
		return h.State == streams.Degraded && h.Metrics == streams.MetricsMissing
	})
	if h.Error != "the app says itself that it is degraded" || h.Failures != 0 {
		t.Errorf("the entry says %+v", h)
	}
	quiz.setAnswer(fine)
	b.awaitHealth("quiz", "healthy again", is(streams.Healthy))
	b.eventually("the notice", func() bool { return b.notices(streams.NoticeAppHealthy) == 1 })
	if got := b.notices(streams.NoticeAppUnhealthy); got != 1 {
		t.Errorf("%d notices that the app is unhealthy, want one", got)
	}
	b.must(b.manifests.Delete(b.ctx, "quiz"))
	b.eventually("the entry to be removed", func() bool {
		_, there, err := b.healths().Get(b.ctx, "quiz")
		b.must(err)
		return !there
	})
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, s := range []streams.HealthState{streams.Healthy, streams.Degraded, streams.Unhealthy} {
		if seen.checks[s] < 2 {
			t.Errorf("%d checks were counted as %s, want two at least", seen.checks[s], s)
		}
	}
}

// garbage returns the URL of what speaks no HTTP.
func garbage(b *bundle) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	b.must(err)
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "\x00\x1b[31m"+strings.Repeat("x", 5000)+"\r\n\r\n")
			c.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

// TestHealthOfDifficultApps: each is reported for what it is, and none keeps
// another from being checked.
func TestHealthOfDifficultApps(t *testing.T) {
	t.Parallel()
	b := setup(t)
	later := func(d time.Duration) func(*http.Request) (int, http.Header, string) {
		return func(r *http.Request) (int, http.Header, string) {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
			}
			return 200, nil, ""
		}
	}
	apps := map[string]*app{
		"slow": newApp(b, later(2700*time.Millisecond)), "hanging": newApp(b, hang(b)),
		"redirect": newApp(b, func(*http.Request) (int, http.Header, string) {
			return 302, http.Header{"Location": {"http://127.0.0.1:1/"}}, ""
		}),
		"fine": newApp(b, always(200)),
	}
	for name, a := range apps {
		b.apply(name, a.URL, nil, "analytics")
	}
	b.apply("nobody", "http://127.0.0.1:1", nil, "analytics")
	b.apply("garbage", garbage(b), nil, "analytics")
	b.start("r1", b.checks("r1", 500*time.Millisecond, loopback))
	for _, tc := range []struct {
		app    string
		state  streams.HealthState
		reason string
		says   string
	}{
		{"fine", streams.Healthy, "", ""},
		{"nobody", streams.Unhealthy, "connection", "can't connect"},
		{"garbage", streams.Unhealthy, "connection", "malformed HTTP"},
		{"redirect", streams.Unhealthy, "status", "redirects are not followed"},
		{"slow", streams.Degraded, "", "slow: it took"},
		{"hanging", streams.Unhealthy, "timeout", "no answer within 5"},
	} {
		h := b.awaitHealth(tc.app, string(tc.state), is(tc.state))
		if h.Reason != tc.reason || !strings.Contains(h.Error, tc.says) || len(h.Error) > 300 || strings.Contains(h.Error, "\x1b") {
			t.Errorf("%s: reason %q, error %q; want %q, %q", tc.app, h.Reason, h.Error, tc.reason, tc.says)
		}
	}
}

// TestGuardedHealthURL: an address that webhooks may not reach is not checked
// either, and the operator is told why.
func TestGuardedHealthURL(t *testing.T) {
	t.Parallel()
	b := setup(t)
	inside := newApp(b, always(200))
	b.apply("inside", inside.URL, nil, "analytics")
	b.start("r1", b.checks("r1", 200*time.Millisecond)) // nothing is allowed
	h := b.awaitHealth("inside", "unhealthy", is(streams.Unhealthy))
	if h.Reason != "blocked_address" || !strings.Contains(h.Error, "BACKSTOP_ALLOWED_NETWORKS") || h.Status != 0 {
		t.Errorf("the entry says %+v", h)
	}
	if n := len(inside.received()); n > 0 {
		t.Errorf("%d requests reached the address", n)
	}
}

// TestOneReplicaChecks, and when it is gone without a word, another one does,
// and goes on from what the first has found out.
func TestOneReplicaChecks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, nil, "analytics")
	lost := b.srv.Conn()
	b.start("r1", b.checks("r1", 100*time.Millisecond, loopback), func(c *consumers.Config) {
		var err error
		c.JetStream, err = jetstream.New(lost)
		b.must(err)
	})
	b.awaitHealth("quiz", "checked", func(h streams.Health) bool { return h.By == "r1" })
	b.start("r2", b.checks("r2", 100*time.Millisecond, loopback))
	by := func(replica string) (n int) {
		for _, r := range quiz.received() {
			if r.header.Get("User-Agent") == "Backstop/"+replica {
				n++
			}
		}
		return n
	}
	more := by("r1") + 20
	b.eventually("more checks", func() bool { return by("r1") >= more })
	if n := by("r2"); n > 0 {
		t.Errorf("%d checks by the replica without the lease", n)
	}
	before, _, err := b.healths().Get(b.ctx, "quiz")
	b.must(err)

	lost.Close() // as when the process is killed: nothing is given back
	dead := time.Now()
	h := b.awaitHealth("quiz", "checked by the other", func(h streams.Health) bool { return h.By == "r2" })
	t.Logf("taken over after %v", time.Since(dead).Round(time.Millisecond))
	if took := time.Since(dead); took > time.Minute { // 15 s, on a machine that is not busy
		t.Errorf("it took %v", took)
	}
	if !h.Since.Equal(before.Since) || h.State != streams.Healthy {
		t.Errorf("before: %+v\nafter:  %+v", before, h)
	}
	if n := b.notices(streams.NoticeAppHealthy) + b.notices(streams.NoticeAppUnhealthy); n > 0 {
		t.Errorf("%d notices about an app that was healthy all the time", n)
	}
}

// TestHealthIsWrittenWhenItIsNews: a check that says the same again is not
// stored before the interval is over; what others left in the bucket is put
// right.
func TestHealthIsWrittenWhenItIsNews(t *testing.T) {
	t.Parallel()
	b := setup(t)
	kv, err := b.js.KeyValue(b.ctx, streams.HealthBucket)
	b.must(err)
	_, err = kv.PutString(b.ctx, "quiz", "nonsense")
	b.must(err)
	_, err = kv.PutString(b.ctx, "gone", `{"state":"healthy"}`)
	b.must(err)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, nil, "analytics")
	b.start("r1", b.checks("r1", time.Hour, loopback))
	first := b.awaitHealth("quiz", "healthy", is(streams.Healthy))
	asked := func() (n int) {
		for _, r := range quiz.received() {
			if r.path == "/metrics" { // which comes second
				n++
			}
		}
		return n
	}
	b.apply("quiz", quiz.URL, quick, "analytics") // checked soon, as it has changed
	b.eventually("the second check", func() bool { return asked() == 2 })
	b.apply("quiz", quiz.URL, nil, "analytics")
	b.eventually("the third check", func() bool { return asked() == 3 }) // the second is settled by then
	if now := b.awaitHealth("quiz", "healthy", is(streams.Healthy)); now != first {
		t.Errorf("written again: %+v, before %+v", now, first)
	}
	// Somebody else writes: its word is taken, and then put right.
	_, err = kv.PutString(b.ctx, "quiz", `{"state":"unhealthy","result":"unhealthy"}`)
	b.must(err)
	quiz.setAnswer(always(500))
	b.apply("quiz", quiz.URL, quick, "analytics")
	h := b.awaitHealth("quiz", "put right", func(h streams.Health) bool { return h.By == "r1" && h.Status == 500 })
	if h.State != streams.Unhealthy || h.Failures != 1 {
		t.Errorf("the entry says %+v", h)
	}
	b.eventually("the entry of no app to be removed", func() bool {
		_, there, err := b.healths().Get(b.ctx, "gone")
		b.must(err)
		return !there
	})
}

// insight shows the breakers of a replica.
type insight struct{ breakers *breaker.Set }

func (i *insight) into(c *consumers.Config) { i.breakers = c.Breakers }

// open tells whether the endpoint's breaker refuses attempts.
func (i *insight) open(id streams.EndpointID) (open bool) {
	i.breakers.Each(func(of streams.EndpointID, b *breaker.Breaker) {
		if state, _ := b.State(); of == id {
			open = state == breaker.Open
		}
	})
	return open
}

// TestHealthEndsAWaitEarly: the breaker would wait for an hour, with the lane
// paused; the app is healthy again, and on every replica the wait is over. What
// a person has opened stays open.
func TestHealthEndsAWaitEarly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(500))
	b.apply("quiz", quiz.URL, fragile(3_600_000), "analytics", "report")
	forced := endpoint("report", "quiz")
	b.must(b.gates.Set(b.ctx, streams.Gate{Capability: forced.Capability, App: forced.App, State: streams.GateForced, Since: time.Now(), By: "ann"}))
	replicas := map[string]*insight{"r1": {}, "r2": {}}
	for name, r := range replicas {
		b.start(name, b.checks(name, 200*time.Millisecond, loopback), r.into)
	}
	id := endpoint("analytics", "quiz")
	b.publish(id, "e1", `{}`)
	b.eventually("the lane to be paused", func() bool {
		info := b.lane(id)
		return info != nil && info.Paused
	})
	b.awaitHealth("quiz", "unhealthy", is(streams.Unhealthy))
	b.eventually("both breakers to be open", func() bool { return replicas["r1"].open(id) && replicas["r2"].open(id) })
	gate, there, err := b.gates.Get(b.ctx, id)
	b.must(err)
	if !there || time.Until(gate.Until) < 50*time.Minute {
		t.Fatalf("the gate is %+v", gate)
	}

	quiz.setAnswer(always(200))
	b.awaitHealth("quiz", "healthy", is(streams.Healthy))
	b.eventually("both breakers to let probes through", func() bool { return !replicas["r1"].open(id) && !replicas["r2"].open(id) })
	// More than it takes to close the breakers, so that both get some.
	for i := range 20 {
		b.publish(id, fmt.Sprint("more", i), `{}`)
	}
	b.eventually("the delivery of what waited", func() bool {
		for _, r := range quiz.received() {
			if r.header.Get("X-Request-Id") == "e1" && r.header.Get("X-Platform-Attempt") != "1" {
				return len(quiz.byID()) >= 21
			}
		}
		return false
	})
	b.settled()
	b.eventually("the gate to be gone", func() bool {
		_, there, err := b.gates.Get(b.ctx, id)
		b.must(err)
		return !there
	})
	if got, there, err := b.gates.Get(b.ctx, forced); err != nil || !there || got.State != streams.GateForced {
		t.Errorf("what ann opened is now %+v, %v, %v", got, there, err)
	}
}
