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

// DeadLetter counts an event that was given up.
func (m *metrics) DeadLetter(id streams.EndpointID, reason streams.DeadLetterReason) {
	if reason == streams.NoRoute {
		id.App = "" // whatever a publisher came up with; it must not make a series of its own
	}
	m.deadLetters.WithLabelValues(id.Capability, id.App, string(reason)).Inc()
}
