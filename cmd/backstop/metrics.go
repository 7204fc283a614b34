package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"backstop/consumers"
	"backstop/dispatcher"
	"backstop/streams"
)

// metrics are what Prometheus sees of the pipeline, beside the Go runtime.
type metrics struct {
	dispatcher  *dispatcher.Metrics
	deadLetters *prometheus.CounterVec

	calls        *prometheus.CounterVec
	callDuration *prometheus.HistogramVec
}

func newMetrics(registry prometheus.Registerer, attempts *consumers.AttemptLog) *metrics {
	m := &metrics{
		dispatcher: dispatcher.NewMetrics(registry),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backstop_dead_letters_total", Help: "Events that were dead-lettered, by reason.",
		}, []string{"capability", "app", "reason"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backstop_calls_total", Help: "Calls that were answered, by who answered and why it wasn't the app.",
		}, []string{"capability", "app", "source", "reason"}),
		callDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "backstop_call_duration_seconds", Help: "How long calls took from their arrival to their answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 1.6, 2, 2.4, 3, 4, 5, 8, 10}, NativeHistogramBucketFactor: 1.1,
			NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		}, []string{"capability"}),
	}
	registry.MustRegister(m.deadLetters, m.calls, m.callDuration, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "backstop_attempt_log_dropped_total", Help: "Entries of the delivery log that could not be written.",
	}, func() float64 { return float64(attempts.Dropped()) }))
	return m
}

// watch adds what only the running pipeline knows.
func (m *metrics) watch(registry prometheus.Registerer, events *consumers.Pipeline) {
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "backstop_rollup_lag_seconds", Help: "Age of the attempts that are not added up yet; 0 at replicas that don't do it.",
		}, func() float64 { return events.RollupLag().Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "backstop_alerts_active", Help: "Alerts that are raised; 0 at replicas that don't evaluate them.",
		}, func() float64 { return float64(events.AlertsActive()) }),
	)
}

// Call counts an answered call.
func (m *metrics) Call(id streams.EndpointID, source streams.Source, reason string, took time.Duration) {
	m.calls.WithLabelValues(id.Capability, id.App, string(source), reason).Inc()
	m.callDuration.WithLabelValues(id.Capability).Observe(took.Seconds())
}

// DeadLetter counts an event that was given up.
func (m *metrics) DeadLetter(id streams.EndpointID, reason streams.DeadLetterReason) {
	m.deadLetters.WithLabelValues(id.Capability, id.App, string(reason)).Inc()
}
