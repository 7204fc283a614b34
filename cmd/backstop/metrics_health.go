package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"backstop/streams"
)

// healthMetrics are what Prometheus sees of the health checks, on the replica
// that makes them.
type healthMetrics struct {
	checks *prometheus.CounterVec
	apps   *prometheus.GaugeVec
}

func newHealthMetrics(registry prometheus.Registerer) *healthMetrics {
	m := &healthMetrics{
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "backstop_health_checks_total", Help: "Health checks, by what they said; unknown ones taught nothing.",
		}, []string{"result"}),
		apps: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "backstop_app_healthy", Help: "Health of an app: 1 healthy, 0.5 degraded, 0 unhealthy. Only where it is checked.",
		}, []string{"app"}),
	}
	registry.MustRegister(m.checks, m.apps)
	return m
}

// HealthCheck counts a check.
func (m *healthMetrics) HealthCheck(result streams.HealthState) {
	m.checks.WithLabelValues(string(result)).Inc()
}

// AppHealth shows an app's state, or drops the series when it isn't known.
func (m *healthMetrics) AppHealth(app string, state streams.HealthState) {
	switch state {
	case streams.Healthy:
		m.apps.WithLabelValues(app).Set(1)
	case streams.Degraded:
		m.apps.WithLabelValues(app).Set(0.5)
	case streams.Unhealthy:
		m.apps.WithLabelValues(app).Set(0)
	default:
		m.apps.DeleteLabelValues(app)
	}
}
