package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"backstop/consumers"
	"backstop/dispatcher"
	"backstop/streams"
)

// metrics are what Prometheus sees of the pipeline, beside the Go runtime.
type metrics struct {
	dispatcher  *dispatcher.Metrics
	deadLetters *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer, attempts *consumers.AttemptLog) *metrics {
	m := &metrics{
		dispatcher: dispatcher.NewMetrics(registry),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backstop_dead_letters_total", Help: "Events that were dead-lettered, by reason.",
		}, []string{"capability", "app", "reason"}),
	}
	registry.MustRegister(m.deadLetters, prometheus.NewCounterFunc(prometheus.CounterOpts{
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

// DeadLetter counts an event that was given up.
func (m *metrics) DeadLetter(id streams.EndpointID, reason streams.DeadLetterReason) {
	if reason == streams.NoRoute {
		id.App = "" // whatever a publisher came up with; it must not make a series of its own
	}
	m.deadLetters.WithLabelValues(id.Capability, id.App, string(reason)).Inc()
}
