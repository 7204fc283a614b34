package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"backstop/dispatcher/limit"
)

var windowDesc = desc("backstop_endpoint_window", "Events that may be in flight at once to an endpoint that is held below its concurrency, for those held back the most.", "capability", "app")

// windows collects how many events an endpoint was found to take.
type windows struct {
	held  func(most int) []limit.Held
	names *names
	fleet *fleet
}

// Windows registers the windows of endpoints that are held back, which held
// tells.
func (m *Metrics) Windows(registry prometheus.Registerer, held func(most int) []limit.Held) {
	registry.MustRegister(windows{held: held, names: m.names, fleet: m.fleet})
}

// Describe implements prometheus.Collector.
func (w windows) Describe(descs chan<- *prometheus.Desc) { descs <- windowDesc }

// Collect implements prometheus.Collector.
func (w windows) Collect(metrics chan<- prometheus.Metric) {
	for _, h := range w.held(max(w.names.most, leastNamed)) {
		// An endpoint that no manifest declares any more may be in flight still.
		if w.fleet.declares(h.EndpointID) {
			metrics <- gauge(windowDesc, float64(h.Window), h.Capability, h.App)
		}
	}
}
