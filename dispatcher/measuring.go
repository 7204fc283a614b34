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
//
// The second is of attempts that made a request, as a native histogram and, for
// a Prometheus that scrapes none, a classic one.
type Metrics struct {
	attempts *prometheus.CounterVec
	duration *prometheus.HistogramVec
	perApp   bool
}

// MetricsOption changes what Metrics are kept.
type MetricsOption func(*Metrics)

// WithoutApps leaves out the label "app", for a platform with so many apps
// that a series for each endpoint and result would be too much.
func WithoutApps() MetricsOption { return func(m *Metrics) { m.perApp = false } }

// durationBuckets are finer around 80% of the capabilities' timeouts (2, 3, 5,
// 10 and 30 s), which is where the contract's alert on slowness looks.
var durationBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 1.6, 2, 2.4, 3, 4, 5, 8, 10, 16, 24, 30}

// NewMetrics returns metrics that are registered with registry. It panics if
// they are already, as it does when called twice.
func NewMetrics(registry prometheus.Registerer, options ...MetricsOption) *Metrics {
	m := &Metrics{perApp: true}
	for _, option := range options {
		option(m)
	}
	labels := []string{"capability", "verdict", "reason"}
	if m.perApp {
		labels = append(labels, "app")
	}
	m.attempts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "backstop_attempts_total",
		Help: "Attempts at events and calls, by what came of them; refused ones made no request.",
	}, labels)
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:                            "backstop_attempt_duration_seconds",
		Help:                            "How long attempts took that made a request.",
		Buckets:                         durationBuckets,
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}, []string{"capability"})
	registry.MustRegister(m.attempts, m.duration)
	return m
}

func (m *Metrics) observe(c Call, out Outcome) {
	id := c.Endpoint.EndpointID
	if m.perApp {
		m.attempts.WithLabelValues(id.Capability, out.Verdict.String(), string(out.Reason), id.App).Inc()
	} else {
		m.attempts.WithLabelValues(id.Capability, out.Verdict.String(), string(out.Reason)).Inc()
	}
	if out.Requested {
		m.duration.WithLabelValues(id.Capability).Observe(out.Duration.Seconds())
	}
}

// Forget drops the series of an endpoint that is no more.
func (m *Metrics) Forget(id streams.EndpointID) {
	if m.perApp {
		m.attempts.DeletePartialMatch(prometheus.Labels{"capability": id.Capability, "app": id.App})
	}
}
