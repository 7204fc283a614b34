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
	cache        *prometheus.CounterVec
	callbacks    *prometheus.CounterVec
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
		cache:     counter("backstop_cache_requests_total", "Answers that were looked up in the cache, or put there.", "capability", "result"),
		callbacks: counter("backstop_callbacks_total", "Callbacks that apps sent, by what became of them.", "result"),
	}
	m.fleet = newFleet(m.names)
	m.Attempts = dispatcher.NewMetrics(registry, dispatcher.AppLabel(m.names.app))
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "backstop_build_info", Help: "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": cfg.Version, "goversion": runtime.Version()},
	})
	build.Set(1)
	registry.MustRegister(m.deadLetters, m.trips, m.calls, m.callDuration, m.fallbacks, m.cache, m.callbacks, m.fleet, build)
	for _, result := range []CallbackResult{CallbackStored, CallbackRefused, CallbackFailed} {
		m.callbacks.WithLabelValues(string(result)) // at 0, so that the first one is an increase
	}
	return m
}

// DeadLetter counts an event that was given up. It implements consumers.Observer.
func (m *Metrics) DeadLetter(id streams.EndpointID, reason streams.DeadLetterReason) {
	switch reason { //nolint:exhaustive // of every other reason the endpoint is one that a manifest declares
	case streams.NoRoute:
		id.App = ""
	case streams.BadPayload, streams.CrashLoop:
		// Found before anybody looks for the endpoint: the app is whatever a
		// publisher came up with, and must not make series.
		if !m.fleet.declares(id) {
			id.App = ""
		}
	}
	m.deadLetters.WithLabelValues(id.Capability, m.names.app(id), string(reason)).Inc()
}

// BreakerChanged counts a breaker that opened in this process. What another
// replica or an operator did, and a probe that failed, don't count.
func (m *Metrics) BreakerChanged(c breaker.Change) {
	if c.From == breaker.Closed && c.To == breaker.Open && c.Cause == breaker.CauseFailures {
		m.trips.WithLabelValues(c.ID.Capability, m.names.app(c.ID)).Inc()
	}
}

// Call counts a call that was answered: by whom, why not by the app (empty:
// it was), and how long its caller waited.
func (m *Metrics) Call(id streams.EndpointID, source streams.Source, reason dispatcher.Reason, took time.Duration) {
	// Callers can name what they like; only what a manifest declares makes series.
	if reason == dispatcher.ReasonNoRoute || reason == dispatcher.ReasonBadPayload && !m.fleet.declares(id) {
		id = streams.EndpointID{}
	}
	m.calls.WithLabelValues(id.Capability, m.names.app(id), string(source), string(reason)).Inc()
	m.callDuration.WithLabelValues(id.Capability, string(source)).Observe(took.Seconds())
}

// Fallback counts a strategy that was asked in the app's place: "default",
// "cached", "queue" or "pending". One that did not answer gave up, and the next
// one was asked.
func (m *Metrics) Fallback(id streams.EndpointID, strategy string, answered bool) {
	result := "gave_up"
	if answered {
		result = "answered"
	}
	m.fallbacks.WithLabelValues(id.Capability, m.names.app(id), strategy, result).Inc()
}

// CacheResult is what came of asking the cache.
type CacheResult string

// What can come of asking the cache.
const (
	CacheHit    CacheResult = "hit"    // there was an answer, and it was young enough
	CacheMiss   CacheResult = "miss"   // there was none
	CacheStored CacheResult = "stored" // an app's answer was put there
	CacheFailed CacheResult = "failed" // it could not be read or written
)

// Cache counts a request to the cache of answers.
func (m *Metrics) Cache(capability string, result CacheResult) {
	m.cache.WithLabelValues(capability, string(result)).Inc()
}

// CallbackResult is what became of a callback.
type CallbackResult string

// What can become of a callback.
const (
	CallbackStored  CallbackResult = "stored"  // it is in RESULTS
	CallbackRefused CallbackResult = "refused" // its token or its body is not right, or it came too late
	CallbackFailed  CallbackResult = "failed"  // it could not be stored; the app was told to try again
)

// Callback counts what an app sent to its callback URL.
func (m *Metrics) Callback(result CallbackResult) { m.callbacks.WithLabelValues(string(result)).Inc() }

// forget drops the series of an endpoint that no manifest declares any more.
func (m *Metrics) forget(id streams.EndpointID) {
	m.Attempts.Forget(id)
	labels := prometheus.Labels{"capability": id.Capability, "app": id.App}
	for _, vec := range []*prometheus.CounterVec{m.deadLetters, m.trips, m.calls, m.fallbacks} {
		vec.DeletePartialMatch(labels)
	}
	m.names.release(id)
}
