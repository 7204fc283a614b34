package dispatcher

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"backstop/dispatcher/breaker"
	"backstop/dispatcher/limit"
	"backstop/dispatcher/sign"
	"backstop/streams"
)

// These tests are about one stage each, so what is below it is a function
// that says what the test wants said.

func always(out Outcome) Handler {
	return func(context.Context, Call) Outcome { return out }
}

var (
	succeeds = Outcome{Verdict: Delivered, Effect: Success, Requested: true, Status: 200}
	fails    = Outcome{Verdict: Retry, Effect: Failure, Reason: ReasonStatus, Requested: true, Status: 500, Err: errors.New("500")}
	says     = Outcome{Verdict: Retry, Effect: NotCounted, Reason: ReasonStatus, Requested: true, Status: 404, Err: errors.New("404")}
)

func never(t *testing.T) Handler {
	t.Helper()
	return func(context.Context, Call) Outcome {
		t.Error("an attempt was made")
		return Outcome{}
	}
}

func TestChain(t *testing.T) {
	var order []string
	stage := func(name string) Stage {
		return func(next Handler) Handler {
			return func(ctx context.Context, c Call) Outcome {
				order = append(order, name)
				return next(ctx, c)
			}
		}
	}
	Chain(always(succeeds), stage("a"), stage("b"), stage("c"))(t.Context(), callTo(""))
	if want := []string{"a", "b", "c"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

func TestTimeoutStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := func(ctx context.Context, timeout time.Duration) (left time.Duration) {
			c := callTo("")
			c.Endpoint.Timeout = timeout
			Chain(func(ctx context.Context, _ Call) Outcome {
				deadline, ok := ctx.Deadline()
				if !ok {
					t.Error("no deadline")
				}
				left = time.Until(deadline)
				return succeeds
			}, Timeout())(ctx, c)
			return left
		}
		if d := left(t.Context(), 2*time.Second); d != 2*time.Second {
			t.Errorf("%v, want the endpoint's 2 s", d)
		}
		near, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if d := left(near, 2*time.Second); d != time.Second {
			t.Errorf("%v, want the caller's nearer 1 s", d)
		}
		far, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if d := left(far, 2*time.Second); d != 2*time.Second {
			t.Errorf("%v, want the endpoint's 2 s", d)
		}
	})
}

func TestSignStage(t *testing.T) {
	const newest, old = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	secrets := map[string][]string{"quiz": {newest, old}, "broken": {"not a secret"}}
	synctest.Test(t, func(t *testing.T) {
		var stamps []string
		check := func(_ context.Context, c Call) Outcome {
			now := time.Now()
			for _, secret := range secrets["quiz"] {
				if err := sign.Verify(c.Header, c.Event.Payload, now, secret); err != nil {
					t.Error(err)
				}
			}
			if err := sign.VerifyPlatform(c.Header, c.Event.Payload, newest); err != nil {
				t.Error(err)
			}
			if err := sign.VerifyPlatform(c.Header, c.Event.Payload, old); !errors.Is(err, sign.ErrMismatch) {
				t.Errorf("X-Platform-Signature is by the old secret: %v", err)
			}
			if id := c.Header.Get("webhook-id"); id != c.Event.ID {
				t.Errorf("webhook-id %q", id)
			}
			stamps = append(stamps, c.Header.Get("webhook-timestamp"))
			return succeeds
		}
		post := Chain(check, Sign(func(app string) []string { return secrets[app] }))
		c := callTo("")
		post(t.Context(), c)
		time.Sleep(time.Hour)
		post(t.Context(), c)
		if len(stamps) != 2 || stamps[0] == stamps[1] {
			t.Errorf("timestamps %v, want a fresh one for each attempt", stamps)
		}
		if c.Header != nil {
			t.Error("the headers of an attempt were left in the caller's call")
		}
	})
	for _, app := range []string{"unknown", "broken"} {
		c := callTo("")
		c.Endpoint.App = app
		out := Chain(never(t), Sign(func(app string) []string { return secrets[app] }))(t.Context(), c)
		expectVerdict(t, out, verdict{Retry, NotCounted, ReasonLocal, false, 0})
		if strings.Contains(out.Err.Error(), "not a secret at all") || !strings.Contains(out.Err.Error(), app) {
			t.Errorf("%s: %v", app, out.Err)
		}
	}
}

func TestBreakerStage(t *testing.T) {
	refused := verdict{Refused, NotCounted, ReasonCircuitOpen, false, 0}
	synctest.Test(t, func(t *testing.T) {
		stage := Breaker(breaker.NewSet(nil))
		c := callTo("")
		attempts := func(n int, h Handler, want verdict) {
			t.Helper()
			for range n {
				expectVerdict(t, stage(h)(t.Context(), c), want)
			}
		}
		attempts(4, always(fails), fails.verdict())
		attempts(9, always(says), says.verdict())
		attempts(1, always(fails), fails.verdict())
		time.Sleep(10 * time.Second)
		out := stage(never(t))(t.Context(), c)
		expectVerdict(t, out, refused)
		if out.RetryAfter != 50*time.Second {
			t.Errorf("retry after %v, want 50s", out.RetryAfter)
		}
		other := c
		other.Endpoint.App = "lottery"
		expectVerdict(t, stage(always(succeeds))(t.Context(), other), succeeds.verdict())

		time.Sleep(50 * time.Second)
		attempts(5, always(says), says.verdict()) // tells nothing, takes no place
		attempts(3, always(succeeds), succeeds.verdict())
		attempts(4, always(fails), fails.verdict()) // closed again, so four are not enough
		attempts(1, always(succeeds), succeeds.verdict())
	})
}

// While probes are under way the rest is refused, with no time known.
func TestBreakerStageWithProbesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := breaker.NewSet(nil)
		stage, c := Breaker(set), callTo("")
		set.Get(testID, c.Endpoint.Breaker).Trip(time.Now().Add(time.Second), breaker.CauseRemote)
		time.Sleep(time.Second + time.Millisecond)
		gate := make(chan struct{})
		for range 3 {
			go stage(func(context.Context, Call) Outcome { <-gate; return succeeds })(t.Context(), c)
		}
		synctest.Wait()
		out := stage(never(t))(t.Context(), c)
		expectVerdict(t, out, verdict{Refused, NotCounted, ReasonCircuitOpen, false, 0})
		if out.RetryAfter != 0 {
			t.Errorf("retry after %v", out.RetryAfter)
		}
		close(gate)
		synctest.Wait()
		expectVerdict(t, stage(always(succeeds))(t.Context(), c), succeeds.verdict())

		set.Get(testID, c.Endpoint.Breaker).Trip(time.Time{}, breaker.CauseOperator)
		if out := stage(never(t))(t.Context(), c); out.Verdict != Refused || out.RetryAfter != 0 {
			t.Errorf("%+v, want refused for nobody knows how long", out)
		}
	})
}

// A panic below takes no place in a half-open breaker, nor in the limit.
func TestPanicsReleaseWhatTheyHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, c := breaker.NewSet(nil), callTo("")
		c.Endpoint.Concurrency = 1
		h := Chain(func(context.Context, Call) Outcome { panic("a bug") }, Breaker(set), Limit(limit.NewSet()))
		set.Get(testID, c.Endpoint.Breaker).Trip(time.Now().Add(time.Second), breaker.CauseRemote)
		time.Sleep(time.Second + time.Millisecond)
		for range 10 {
			func() {
				defer func() {
					if recover() != "a bug" {
						t.Error("the panic was swallowed")
					}
				}()
				out := h(t.Context(), c)
				t.Errorf("%+v", out)
			}()
		}
	})
}

func TestLimitStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, c := limit.NewSet(), callTo("")
		stage := Limit(set)
		c.Endpoint.Concurrency, c.Endpoint.RateLimit = 4, 10
		gate := make(chan struct{})
		for range 4 {
			time.Sleep(100 * time.Millisecond)
			go stage(func(context.Context, Call) Outcome { <-gate; return succeeds })(t.Context(), c)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		expectVerdict(t, stage(never(t))(t.Context(), c), verdict{Refused, NotCounted, ReasonSaturated, false, 0})
		close(gate)
		synctest.Wait()

		expectVerdict(t, stage(always(succeeds))(t.Context(), c), succeeds.verdict())
		out := stage(never(t))(t.Context(), c)
		expectVerdict(t, out, verdict{Refused, NotCounted, ReasonRateLimited, false, 0})
		if out.RetryAfter != 100*time.Millisecond {
			t.Errorf("retry after %v, want 100ms", out.RetryAfter)
		}
	})
}

func TestLimitStageTeachesTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, c := limit.NewSet(), callTo("")
		c.Endpoint.Concurrency = 100
		asks := Outcome{Verdict: Retry, Reason: ReasonRateLimited, PauseEndpoint: true}
		for _, test := range []struct {
			reason string
			out    Outcome
			want   int
		}{
			{"good answers to all that it had room for", succeeds, 16},
			{"what doesn't count", says, 16},
			{"answers 429, as one", asks, 8},
			{"failures, each", fails, 1},
		} {
			var all sync.WaitGroup
			for range set.Get(c.Endpoint).Window() {
				all.Go(func() {
					Limit(set)(func(context.Context, Call) Outcome {
						time.Sleep(time.Second)
						return test.out
					})(t.Context(), c)
				})
			}
			all.Wait()
			if w := set.Get(c.Endpoint).Window(); w != test.want {
				t.Errorf("window %d after %s; want %d", w, test.reason, test.want)
			}
		}
	})
}

// Calls may go out where events fill their half.
func TestLimitStageKeepsRoomForCalls(t *testing.T) {
	set, c := limit.NewSet(), callTo("")
	c.Endpoint.Concurrency, c.Endpoint.Async = 2, false
	Limit(set)(func(ctx context.Context, c Call) Outcome {
		expectVerdict(t, Limit(set)(never(t))(ctx, c), verdict{Refused, NotCounted, ReasonSaturated, false, 0})
		c.Sync = true
		expectVerdict(t, Limit(set)(always(succeeds))(ctx, c), succeeds.verdict())
		return succeeds
	})(t.Context(), c)
}

func TestMeasureStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewPedanticRegistry()
		var heard []string
		h := Chain(func(_ context.Context, c Call) Outcome {
			time.Sleep(1500 * time.Millisecond)
			switch c.Attempt {
			case 1:
				return fails
			case 2:
				return Outcome{Verdict: Refused, Reason: ReasonSaturated, Err: errSaturated}
			default:
				return succeeds
			}
		}, Measure(NewMetrics(registry), func(c Call, out Outcome) {
			heard = append(heard, c.Event.ID+" "+out.Verdict.String()+" "+out.Duration.String())
		}))
		for attempt := 1; attempt <= 4; attempt++ {
			c := callTo("")
			c.Attempt = attempt
			if out := h(t.Context(), c); out.Duration != 1500*time.Millisecond {
				t.Errorf("duration %v", out.Duration)
			}
		}
		if want := []string{"evt_1 retry 1.5s", "evt_1 refused 1.5s", "evt_1 delivered 1.5s", "evt_1 delivered 1.5s"}; !slices.Equal(heard, want) {
			t.Errorf("heard %v, want %v", heard, want)
		}
		expectSeries(t, registry, map[string]float64{
			"backstop_attempts_total app=quiz capability=analytics reason= verdict=delivered":        2,
			"backstop_attempts_total app=quiz capability=analytics reason=saturated verdict=refused": 1,
			"backstop_attempts_total app=quiz capability=analytics reason=status verdict=retry":      1,
			"backstop_attempt_duration_seconds capability=analytics":                                 3,
			"backstop_retries_total app=quiz capability=analytics":                                   2,
			"backstop_slow_attempts_total app=quiz capability=analytics":                             0,
		})
	})
}

// More than 80% of the endpoint's timeout is slow, whatever came of it.
func TestMetricsSlow(t *testing.T) {
	tests := []struct {
		why     string
		took    time.Duration
		timeout time.Duration
		out     Outcome
		slow    float64
	}{
		{"well below", 500 * time.Millisecond, time.Second, succeeds, 0},
		{"exactly 80%", 800 * time.Millisecond, time.Second, succeeds, 0},
		{"above, and well answered", 801 * time.Millisecond, time.Second, succeeds, 1},
		{"above, and badly answered", 900 * time.Millisecond, time.Second, fails, 1},
		{"an endpoint without a timeout has no slow ones", time.Hour, 0, succeeds, 0},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				registry := prometheus.NewPedanticRegistry()
				h := Measure(NewMetrics(registry))(func(context.Context, Call) Outcome {
					time.Sleep(tt.took)
					return tt.out
				})
				c := callTo("")
				c.Endpoint.Timeout = tt.timeout
				h(t.Context(), c)
				families, err := registry.Gather()
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range families {
					if got := f.GetMetric()[0].GetCounter().GetValue(); f.GetName() == "backstop_slow_attempts_total" && got != tt.slow {
						t.Errorf("%v slow attempts, want %v", got, tt.slow)
					}
				}
			})
		})
	}
}

func TestMetricsAppLabel(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(registry, AppLabel(func(streams.EndpointID) string { return "_other" }))
	h := Measure(m)(always(succeeds))
	for _, app := range []string{"a", "b", "c"} {
		c := callTo("")
		c.Endpoint.App = app
		h(t.Context(), c)
	}
	m.Forget(testID)
	expectSeries(t, registry, map[string]float64{
		"backstop_attempts_total app=_other capability=analytics reason= verdict=delivered": 3,
		"backstop_attempt_duration_seconds capability=analytics":                            3,
		"backstop_retries_total app=_other capability=analytics":                            0,
		"backstop_slow_attempts_total app=_other capability=analytics":                      0,
	})
}

func TestMetricsForget(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m := NewMetrics(registry)
	for _, out := range []Outcome{succeeds, fails} {
		Measure(m)(always(out))(t.Context(), callTo(""))
	}
	m.Forget(streams.EndpointID{Capability: "analytics", App: "other"})
	m.Forget(testID)
	expectSeries(t, registry, map[string]float64{"backstop_attempt_duration_seconds capability=analytics": 2})
	Measure(nil)(always(succeeds))(t.Context(), callTo("")) // no metrics, no observers
}

// expectSeries compares counters by their value and histograms by their count.
func expectSeries(t *testing.T, registry prometheus.Gatherer, want map[string]float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := []string{f.GetName()}
			for _, l := range m.GetLabel() {
				name = append(name, l.GetName()+"="+l.GetValue())
			}
			value := m.GetCounter().GetValue()
			if f.GetType() == dto.MetricType_HISTOGRAM {
				value = float64(m.GetHistogram().GetSampleCount())
				if m.GetHistogram().Schema == nil || len(m.GetHistogram().GetBucket()) == 0 {
					t.Errorf("%s is not both native and classic", f.GetName())
				}
			}
			got[strings.Join(name, " ")] = value
		}
	}
	if len(got) != len(want) {
		t.Errorf("series %v, want %v", got, want)
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s: %v, want %v", name, got[name], value)
		}
	}
}

func TestSetHeader(t *testing.T) {
	var c Call
	c.SetHeader("x-a", "1")
	c.SetHeader("X-A", "2")
	c.SetHeader("x-b", "3")
	if want := (http.Header{"X-A": {"2"}, "X-B": {"3"}}); len(c.Header) != 2 || c.Header.Get("X-A") != "2" || c.Header.Get("X-B") != "3" {
		t.Errorf("%v, want %v", c.Header, want)
	}
}

func TestNames(t *testing.T) {
	for v, want := range map[Verdict]string{Delivered: "delivered", Retry: "retry", Rejected: "rejected", Refused: "refused", 0: "unknown", 9: "unknown"} {
		if got := v.String(); got != want {
			t.Errorf("verdict %d is %q, want %q", v, got, want)
		}
	}
}
