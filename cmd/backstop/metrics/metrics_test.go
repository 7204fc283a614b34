package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/dispatcher/limit"
	"backstop/embedded/natstest"
	"backstop/fallback"
	"backstop/streams"
	"backstop/streams/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiz = streams.EndpointID{Capability: "quizAnswer", App: "quiz"}

// everything returns a registry in which every metric has a series.
func everything(t *testing.T) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	m := New(registry, Config{Endpoints: 10, Version: "v1"})
	m.fleet.declare("quiz", &manifest.Manifest{AppID: "quiz", Webhooks: map[string]manifest.Webhook{"quizAnswer": {Path: "/"}}}, manifest.Defaults{})
	m.fleet.setGate(quiz, &streams.Gate{State: streams.GateForced})
	call := dispatcher.Call{Event: streams.Event{ID: "e"}, Endpoint: manifest.Endpoint{EndpointID: quiz, Timeout: time.Second}, Attempt: 2}
	dispatcher.Measure(m.Attempts)(func(context.Context, dispatcher.Call) dispatcher.Outcome {
		return dispatcher.Outcome{Verdict: dispatcher.Delivered, Requested: true}
	})(t.Context(), call)
	m.DeadLetter(quiz, streams.Exhausted)
	m.BreakerChanged(breaker.Change{ID: quiz, From: breaker.Closed, To: breaker.Open, Cause: breaker.CauseFailures})
	m.Call(quiz, streams.SourceApp, "", time.Second)
	m.Fallback(quiz, "default", nil)
	m.HealthCheck(streams.Healthy)
	m.Windows(registry, func(int) []limit.Held { return []limit.Held{{EndpointID: quiz, Window: 2, Ceiling: 4}} })
	m.fleet.setHealth("quiz", &streams.Health{State: streams.Unhealthy})
	Cache(registry, func() fallback.CacheStats { return fallback.CacheStats{Hits: 1} })
	Callbacks(registry)
	broker := NewBroker(registry, func(context.Context) (State, error) {
		return State{
			Lanes:    []Lane{{EndpointID: streams.EndpointID{Capability: "analytics"}, Events: 2, InFlight: 1, Oldest: time.Now()}},
			OwnLanes: 1, Parked: 3, Longest: []Lane{{EndpointID: quiz, Events: 3, Oldest: time.Now()}},
			DeadLetters: 4, MostDead: []Count{{quiz, 4}},
			Streams: []Stream{{"DLQ", 1, 2}}, StoreBytes: 1, StoreLimit: 2,
		}, nil
	}, slog.New(slog.DiscardHandler))
	broker.refresh(t.Context())
	Connection(registry, natstest.Start(t).Conn())
	AttemptLog(registry, func() uint64 { return 0 })
	Watchers(registry, func() time.Duration { return 0 }, func() int { return 0 })
	return registry
}

// The page lists every metric with its type, its labels and its help, and
// nothing else.
func TestMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| `backstop_") {
			documented = append(documented, strings.TrimSpace(line))
		}
	}
	families, err := everything(t).Gather()
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, f := range families {
		rows = append(rows, row(f))
	}
	for _, r := range rows {
		if !slices.Contains(documented, r) {
			t.Errorf("docs/metrics.md lacks this row:\n%s", r)
		}
	}
	for _, d := range documented {
		if !slices.Contains(rows, d) {
			t.Errorf("docs/metrics.md has a row that no metric matches:\n%s", d)
		}
	}
}

// row is how the page shows a metric.
func row(f *dto.MetricFamily) string {
	var labels []string
	for _, l := range f.GetMetric()[0].GetLabel() {
		labels = append(labels, "`"+l.GetName()+"`")
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
}

func TestMetricsLint(t *testing.T) {
	families, err := everything(t).Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Beyond the limit endpoints share a series, so that 10,000 of them are no
// trouble and sums are right.
func TestCardinality(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := New(registry, Config{Endpoints: 3})
	for i := range 10_000 {
		m.Call(streams.EndpointID{Capability: "quizAnswer", App: fmt.Sprintf("app-%d", i)}, streams.SourceApp, "", time.Millisecond)
	}
	const want = `
# HELP backstop_calls_total Calls that were answered, by who answered and why it wasn't the app.
# TYPE backstop_calls_total counter
backstop_calls_total{app="_other",capability="quizAnswer",reason="",source="app"} 9997
backstop_calls_total{app="app-0",capability="quizAnswer",reason="",source="app"} 1
backstop_calls_total{app="app-1",capability="quizAnswer",reason="",source="app"} 1
backstop_calls_total{app="app-2",capability="quizAnswer",reason="",source="app"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "backstop_calls_total"); err != nil {
		t.Error(err)
	}

	// An endpoint that is no more makes room for another.
	m.forget(streams.EndpointID{Capability: "quizAnswer", App: "app-1"})
	m.Call(streams.EndpointID{Capability: "quizAnswer", App: "new"}, streams.SourceApp, "", time.Millisecond)
	if n, err := testutil.GatherAndCount(registry, "backstop_calls_total"); err != nil || n != 4 {
		t.Errorf("%d series, %v; want 4: app-0, app-2, new and _other", n, err)
	}
}

// The pipeline names only what a manifest declares. Should another name get
// through, it makes no series, nor does it break a scrape or end the process
// with bytes that no label may have.
func TestHostileNames(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := New(registry, Config{Endpoints: 100})
	hostile := streams.EndpointID{Capability: "analytics", App: "\xff\xfe"}
	m.DeadLetter(hostile, streams.NoRoute)
	m.Call(hostile, streams.SourceNone, "no_route", 0)
	hostile.Capability = "\xff"
	m.DeadLetter(hostile, streams.NoRoute)
	m.Call(hostile, streams.SourceNone, "no_route", 0)
	m.Fallback(hostile, "default", nil)
	m.fleet.setGate(hostile, &streams.Gate{State: streams.GateForced})
	m.fleet.setGate(streams.EndpointID{Capability: "analytics", App: "\xff"}, &streams.Gate{State: streams.GateForced})
	const want = `
# HELP backstop_calls_total Calls that were answered, by who answered and why it wasn't the app.
# TYPE backstop_calls_total counter
backstop_calls_total{app="",capability="",reason="no_route",source="none"} 1
backstop_calls_total{app="",capability="analytics",reason="no_route",source="none"} 1
# HELP backstop_dead_letters_total Events that were dead-lettered, by reason.
# TYPE backstop_dead_letters_total counter
backstop_dead_letters_total{app="",capability="",reason="no_route"} 1
backstop_dead_letters_total{app="",capability="analytics",reason="no_route"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "backstop_calls_total",
		"backstop_dead_letters_total", "backstop_breaker_state"); err != nil {
		t.Error(err)
	}
	if n := len(m.names.list()); n != 0 {
		t.Errorf("%d places were taken", n)
	}
}

// An attempt that ends after its app was removed makes series again; they go
// with the next sweep, and their place with them.
func TestSweep(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := New(registry, Config{Endpoints: 100})
	still := streams.EndpointID{Capability: "quizAnswer", App: "still"}
	m.fleet.declare("still", &manifest.Manifest{AppID: "still", Webhooks: map[string]manifest.Webhook{"quizAnswer": {Path: "/"}}}, manifest.Defaults{})
	for _, id := range []streams.EndpointID{quiz, still} {
		m.DeadLetter(id, streams.Exhausted)
		m.Fallback(id, "cached", errors.New("nothing there"))
	}
	m.sweep()
	if own := m.names.list(); !slices.Equal(own, []streams.EndpointID{still}) {
		t.Errorf("%v have series of their own, want %v", own, still)
	}
	const want = `
# HELP backstop_fallbacks_total Strategies that were asked in an app's place, by whether they answered.
# TYPE backstop_fallbacks_total counter
backstop_fallbacks_total{app="still",capability="quizAnswer",result="gave_up",strategy="cached"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "backstop_fallbacks_total"); err != nil {
		t.Error(err)
	}
}

func TestTrips(t *testing.T) {
	tests := []struct {
		why    string
		change breaker.Change
		trips  int
	}{
		{"failures opened it", breaker.Change{From: breaker.Closed, To: breaker.Open, Cause: breaker.CauseFailures}, 1},
		{"a probe failed: it was open before", breaker.Change{From: breaker.HalfOpen, To: breaker.Open, Cause: breaker.CauseFailures}, 0},
		{"another replica counts its own", breaker.Change{From: breaker.Closed, To: breaker.Open, Cause: breaker.CauseRemote}, 0},
		{"a person opened it", breaker.Change{From: breaker.Closed, To: breaker.Open, Cause: breaker.CauseOperator}, 0},
		{"it closed", breaker.Change{From: breaker.HalfOpen, To: breaker.Closed, Cause: breaker.CauseRecovered}, 0},
	}
	for _, tt := range tests {
		m := New(prometheus.NewPedanticRegistry(), Config{Endpoints: 1})
		tt.change.ID = quiz
		m.BreakerChanged(tt.change)
		if n := testutil.CollectAndCount(m.trips); n != tt.trips {
			t.Errorf("%s: %d trips, want %d", tt.why, n, tt.trips)
		}
	}
}

// Breakers that are closed have no series; an open one whose time is over is
// half-open, though nobody writes that down.
func TestBreakerStates(t *testing.T) {
	f := newFleet(newNames(2))
	f.setGate(streams.EndpointID{Capability: "c", App: "over"}, &streams.Gate{State: streams.GateOpen, Until: time.Now().Add(-time.Second)})
	f.setGate(streams.EndpointID{Capability: "c", App: "open"}, &streams.Gate{State: streams.GateOpen, Until: time.Now().Add(time.Hour)})
	f.setGate(streams.EndpointID{Capability: "c", App: "closed"}, &streams.Gate{State: streams.GateOpen})
	f.setGate(streams.EndpointID{Capability: "c", App: "closed"}, nil)
	const want = `
# HELP backstop_breaker_state Always 1, for each endpoint whose breaker is not closed; a closed one has no series.
# TYPE backstop_breaker_state gauge
backstop_breaker_state{app="open",capability="c",state="open"} 1
backstop_breaker_state{app="over",capability="c",state="half-open"} 1
# HELP backstop_breakers Endpoints that are not simply open for traffic, by state.
# TYPE backstop_breakers gauge
backstop_breakers{state="disabled"} 0
backstop_breakers{state="forced-open"} 0
backstop_breakers{state="half-open"} 1
backstop_breakers{state="open"} 1
`
	if err := testutil.CollectAndCompare(f, strings.NewReader(want), "backstop_breaker_state", "backstop_breakers"); err != nil {
		t.Error(err)
	}
	for i := range 2 * leastNamed {
		f.setGate(streams.EndpointID{Capability: "d", App: fmt.Sprint(i)}, &streams.Gate{State: streams.GateForced})
	}
	if n := testutil.CollectAndCount(f, "backstop_breaker_state"); n != leastNamed {
		t.Errorf("%d endpoints by name, want %d, the least limit", n, leastNamed)
	}
}

// Only apps that are not well have series of their own.
// An endpoint whose manifest went may be in flight still; it has no series.
func TestWindows(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := New(registry, Config{})
	m.fleet.declare("quiz", &manifest.Manifest{AppID: "quiz", Webhooks: map[string]manifest.Webhook{"quizAnswer": {Path: "/"}}}, manifest.Defaults{})
	gone := streams.EndpointID{Capability: "quizAnswer", App: "gone"}
	m.Windows(registry, func(most int) []limit.Held {
		if most != leastNamed {
			t.Errorf("asked for %d endpoints, want %d", most, leastNamed)
		}
		return []limit.Held{{EndpointID: gone, Window: 1, Ceiling: 4}, {EndpointID: quiz, Window: 2, Ceiling: 4}}
	})
	const want = `
# HELP backstop_endpoint_window Events that may be in flight at once to an endpoint that is held below its concurrency, for those held back the most.
# TYPE backstop_endpoint_window gauge
backstop_endpoint_window{app="quiz",capability="quizAnswer"} 2
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "backstop_endpoint_window"); err != nil {
		t.Error(err)
	}
}

func TestAppHealth(t *testing.T) {
	f := newFleet(newNames(0))
	for app, state := range map[string]streams.HealthState{
		"fine": streams.Healthy, "slow": streams.Degraded, "down": streams.Unhealthy, "new": streams.HealthUnknown,
		"hand": "made up", "\xff": streams.Unhealthy, "gone": streams.Unhealthy,
	} {
		f.setHealth(app, &streams.Health{State: state})
	}
	f.setHealth("gone", nil)
	const want = `
# HELP backstop_app_health Always 1, for each app that is degraded or unhealthy by its health checks; a healthy one has no series.
# TYPE backstop_app_health gauge
backstop_app_health{app="down",state="unhealthy"} 1
backstop_app_health{app="slow",state="degraded"} 1
# HELP backstop_apps Apps whose health is checked, by state.
# TYPE backstop_apps gauge
backstop_apps{state="degraded"} 1
backstop_apps{state="healthy"} 1
backstop_apps{state="unhealthy"} 1
backstop_apps{state="unknown"} 2
`
	if err := testutil.CollectAndCompare(f, strings.NewReader(want), "backstop_app_health", "backstop_apps"); err != nil {
		t.Error(err)
	}
	for i := range 2 * leastNamed {
		f.setHealth(fmt.Sprint(i), &streams.Health{State: streams.Unhealthy})
	}
	if n := testutil.CollectAndCount(f, "backstop_app_health"); n != leastNamed {
		t.Errorf("%d apps by name, want %d", n, leastNamed)
	}
}

// NATS is asked by a clock and never by a scrape; when it doesn't answer, what
// it told is gone.
func TestBrokerIsAskedByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var asked atomic.Int64
		var gone atomic.Bool
		registry := prometheus.NewPedanticRegistry()
		b := NewBroker(registry, func(context.Context) (State, error) {
			if n := asked.Add(1); !gone.Load() {
				return State{DeadLetters: uint64(n)}, nil
			}
			return State{}, errors.New("no responders")
		}, slog.New(slog.DiscardHandler))
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		expect := func(why string, calls int64, up, pending float64) {
			t.Helper()
			got := map[string]float64{"backstop_dead_letters_pending": -1}
			for range 100 { // scrapes
				families, err := registry.Gather()
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range families {
					got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
				}
			}
			if asked.Load() != calls || got["backstop_broker_up"] != up || got["backstop_dead_letters_pending"] != pending {
				t.Errorf("%s: asked %d times, %v; want %d times, up %v, pending %v", why, asked.Load(), got, calls, up, pending)
			}
		}
		synctest.Wait()
		expect("at the start", 1, 1, 1)
		pass(refreshEvery - 1)
		expect("before the next look", 1, 1, 1)
		gone.Store(true)
		pass(1)
		expect("NATS is gone", 2, 0, -1)
		gone.Store(false)
		pass(refreshEvery)
		expect("NATS is back", 3, 1, 3)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// pass moves a bubble's clock, and returns when whatever that woke is done.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a synctest bubble it moves the clock and waits for nothing
	synctest.Wait()
}
