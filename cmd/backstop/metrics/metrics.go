package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/streams"
)

// Config says what is measured. The zero value is fit for tests.
type Config struct {
	// Endpoints is how many endpoints have series of their own; the others
	// share those with the app Other. Zero means none.
	Endpoints int
	// Version is that of this build, for backstop_build_info.
	Version string
}

// Metrics counts what happens in this process. Each method is one event, takes
// no lock for long and never blocks.
type Metrics struct {
	// Attempts goes to dispatcher.Measure.
	Attempts *dispatcher.Metrics

	names        *names
	fleet        *fleet
	deadLetters  *prometheus.CounterVec
	trips        *prometheus.CounterVec
	calls        *prometheus.CounterVec
	callDuration *prometheus.HistogramVec
	fallbacks    *prometheus.CounterVec
	checks       *prometheus.CounterVec
}

// New returns metrics that are registered with registry.
func New(registry prometheus.Registerer, cfg Config) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		names:       newNames(cfg.Endpoints),
		deadLetters: counter("backstop_dead_letters_total", "Events that were dead-lettered, by reason.", "capability", "app", "reason"),
		trips:       counter("backstop_breaker_trips_total", "Times that a closed breaker opened after failures.", "capability", "app"),
		calls:       counter("backstop_calls_total", "Calls that were answered, by who answered and why it wasn't the app.", "capability", "app", "source", "reason"),
		callDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "backstop_call_duration_seconds", Help: "How long callers waited for the answer, whoever gave it.",
			Buckets: dispatcher.DurationBuckets(), NativeHistogramBucketFactor: 1.1,
			NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, []string{"capability", "source"}),
		fallbacks: counter("backstop_fallbacks_total", "Strategies that were asked in an app's place, by whether they answered.", "capability", "app", "strategy", "result"),
		checks:    counter("backstop_health_checks_total", "Health checks of apps, by what they said; unknown ones taught nothing.", "result"),
	}
	m.fleet = newFleet(m.names)
	m.Attempts = dispatcher.NewMetrics(registry, dispatcher.AppLabel(m.names.app))
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "backstop_build_info", Help: "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": cfg.Version, "goversion": runtime.Version()},
	})
	build.Set(1)
	registry.MustRegister(m.deadLetters, m.trips, m.calls, m.callDuration, m.fallbacks, m.checks, m.fleet, build)
	return m
}

// DeadLetter counts an event that was given up. With Call it is a
// consumers.Observer.
func (m *Metrics) DeadLetter(id streams.EndpointID, reason streams.DeadLetterReason) {
	capability, app := m.names.labels(id)
	m.deadLetters.WithLabelValues(capability, app, string(reason)).Inc()
}

// BreakerChanged counts a breaker that opened in this process. What another
// replica or an operator did, and a probe that failed, don't count.
func (m *Metrics) BreakerChanged(c breaker.Change) {
	if c.From == breaker.Closed && c.To == breaker.Open && c.Cause == breaker.CauseFailures {
		capability, app := m.names.labels(c.ID)
		m.trips.WithLabelValues(capability, app).Inc()
	}
}

// Call counts a call that was answered: by whom, why not by the app (empty:
// it was), and how long its caller waited.
func (m *Metrics) Call(id streams.EndpointID, source streams.Source, reason string, took time.Duration) {
	capability, app := m.names.labels(id)
	m.calls.WithLabelValues(capability, app, string(source), reason).Inc()
	m.callDuration.WithLabelValues(capability, string(source)).Observe(took.Seconds())
}

// Fallback counts a strategy of a manifest that was asked in the app's place.
// With an error it gave up, and the next one was asked.
func (m *Metrics) Fallback(id streams.EndpointID, strategy string, err error) {
	result := "answered"
	if err != nil {
		result = "gave_up"
	}
	capability, app := m.names.labels(id)
	m.fallbacks.WithLabelValues(capability, app, strategy, result).Inc()
}

// HealthCheck counts a health check that this replica made.
func (m *Metrics) HealthCheck(result streams.HealthState) {
	m.checks.WithLabelValues(string(result)).Inc()
}

// Declares tells whether a manifest declares the endpoint, as far as Follow
// has heard.
func (m *Metrics) Declares(id streams.EndpointID) bool { return m.fleet.declares(id) }

// forget drops the series of an endpoint that no manifest declares any more.
func (m *Metrics) forget(id streams.EndpointID) {
	m.Attempts.Forget(id)
	labels := prometheus.Labels{"capability": id.Capability, "app": id.App}
	for _, vec := range []*prometheus.CounterVec{m.deadLetters, m.trips, m.calls, m.fallbacks} {
		vec.DeletePartialMatch(labels)
	}
	m.names.release(id)
}
