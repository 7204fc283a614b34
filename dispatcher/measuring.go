package dispatcher

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"backstop/streams"
)

// Measure takes the time of each attempt and passes its outcome, of refused
// ones too, to the metrics (nil for none) and then to the observers, which
// must not block.
func Measure(m *Metrics, observers ...func(Call, Outcome)) Stage {
	return func(next Handler) Handler {
		return func(ctx context.Context, c Call) Outcome {
			start := time.Now()
			out := next(ctx, c)
			out.Duration = time.Since(start)
			if m != nil {
				m.observe(c, out)
			}
			for _, observe := range observers {
				observe(c, out)
			}
			return out
		}
	}
}

// Metrics are what Prometheus sees of the attempts:
//
//	backstop_attempts_total{capability,app,verdict,reason}
//	backstop_attempt_duration_seconds{capability}
//	backstop_retries_total{capability,app}
//	backstop_slow_attempts_total{capability,app}
//
// The duration is of attempts that made a request, as a native histogram and,
// for a Prometheus that scrapes none, a classic one.
type Metrics struct {
	attempts *prometheus.CounterVec
	duration *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	slow     *prometheus.CounterVec
	app      func(streams.EndpointID) string
}

// MetricsOption changes what Metrics are kept.
type MetricsOption func(*Metrics)

// AppLabel decides what the label "app" says of an endpoint, for a platform
// with so many that a series of each would be too much: those that share an
// answer share their series. It is asked at every attempt. Without it, each
// has its own name.
func AppLabel(of func(streams.EndpointID) string) MetricsOption {
	return func(m *Metrics) { m.app = of }
}

// slowShare is the part of its endpoint's timeout from which on an attempt is
// slow: that of the contract's alert. The 95th percentile is above it exactly
// when more than 5% of the attempts are, so that one counter for each endpoint
// tells what would otherwise take a histogram of each.
const slowShare = 0.8

// DurationBuckets are the bounds in seconds of a classic histogram of attempts
// or calls. They are finer around 80% of the capabilities' timeouts (2, 3, 5,
// 10 and 30 s), which is where the contract's alert on slowness looks.
func DurationBuckets() []float64 {
	return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 1.6, 2, 2.4, 3, 4, 5, 8, 10, 16, 24, 30}
}

// NewMetrics returns metrics that are registered with registry. It panics if
// they are already, as it does when called twice.
func NewMetrics(registry prometheus.Registerer, options ...MetricsOption) *Metrics {
	m := &Metrics{app: func(id streams.EndpointID) string { return id.App }}
	for _, option := range options {
		option(m)
	}
	m.attempts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "backstop_attempts_total",
		Help: "Attempts at events and calls, by what came of them; refused ones made no request.",
	}, []string{"capability", "app", "verdict", "reason"})
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:                            "backstop_attempt_duration_seconds",
		Help:                            "How long attempts took that made a request.",
		Buckets:                         DurationBuckets(),
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}, []string{"capability"})
	m.retries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "backstop_retries_total",
		Help: "Attempts after an event's first that made a request.",
	}, []string{"capability", "app"})
	m.slow = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "backstop_slow_attempts_total",
		Help: "Attempts that took more than 80% of their endpoint's timeout, or ran into it.",
	}, []string{"capability", "app"})
	registry.MustRegister(m.attempts, m.duration, m.retries, m.slow)
	return m
}

func (m *Metrics) observe(c Call, out Outcome) {
	capability, app := c.Endpoint.Capability, m.app(c.Endpoint.EndpointID)
	m.attempts.WithLabelValues(capability, app, out.Verdict.String(), string(out.Reason)).Inc()
	if !out.Requested {
		return
	}
	m.duration.WithLabelValues(capability).Observe(out.Duration.Seconds())
	// Made with the first attempt, so that the first slow one is an increase.
	slow := m.slow.WithLabelValues(capability, app)
	if limit := c.Endpoint.Timeout; limit > 0 && out.Duration.Seconds() > slowShare*limit.Seconds() {
		slow.Inc()
	}
	if retries := m.retries.WithLabelValues(capability, app); c.Attempt > 1 {
		retries.Inc()
	}
}

// Forget drops the series of an endpoint that is no more.
func (m *Metrics) Forget(id streams.EndpointID) {
	labels := prometheus.Labels{"capability": id.Capability, "app": id.App}
	for _, vec := range []*prometheus.CounterVec{m.attempts, m.retries, m.slow} {
		vec.DeletePartialMatch(labels)
	}
}
