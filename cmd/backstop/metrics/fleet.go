package metrics

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"backstop/streams"
	"backstop/streams/manifest"
)

// fleet is what manifests declare, which gates are not closed, and how the apps
// that are checked are, as the watches tell it. It collects all three.
type fleet struct {
	names *names

	mu       sync.RWMutex
	declared map[streams.EndpointID]time.Duration // → timeout
	byApp    map[string][]streams.EndpointID
	gates    map[streams.EndpointID]streams.Gate
	healths  map[string]streams.HealthState
}

func newFleet(names *names) *fleet {
	return &fleet{
		names: names, declared: make(map[streams.EndpointID]time.Duration),
		byApp: make(map[string][]streams.EndpointID), gates: make(map[streams.EndpointID]streams.Gate),
		healths: make(map[string]streams.HealthState),
	}
}

// sweepEvery is how often the series of endpoints that are no more are looked
// for again: an attempt that was under way when its manifest went makes new ones.
const sweepEvery = time.Minute

// Follow follows manifests, gates and health until ctx ends. It drops the series
// of endpoints that are no more.
func (m *Metrics) Follow(ctx context.Context, manifests *manifest.Store, defaults manifest.Defaults, gates *streams.Gates, healths *streams.Healths, log *slog.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	loaded := make(chan struct{})
	group.Go(func() error {
		return manifests.Watch(ctx, func(u manifest.Update) {
			if u.Loaded {
				close(loaded)
				return
			}
			for _, id := range m.fleet.declare(u.App, u.Manifest, defaults) {
				m.forget(id)
			}
		})
	})
	group.Go(func() error {
		return gates.Watch(ctx, log, func() {}, m.fleet.setGate)
	})
	group.Go(func() error {
		return healths.Watch(ctx, log, func() {}, m.fleet.setHealth)
	})
	group.Go(func() error {
		select {
		case <-loaded:
		case <-ctx.Done():
			return nil
		}
		tick := time.NewTicker(sweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.sweep()
			case <-ctx.Done():
				return nil
			}
		}
	})
	return group.Wait()
}

func (m *Metrics) sweep() {
	for _, id := range m.names.list() {
		if !m.fleet.declares(id) {
			m.forget(id)
		}
	}
}

// declare takes over an app's manifest, nil for one that was removed, and
// returns the endpoints that are gone.
func (f *fleet) declare(app string, m *manifest.Manifest, defaults manifest.Defaults) (gone []streams.EndpointID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.byApp[app]
	delete(f.byApp, app)
	for _, id := range before {
		delete(f.declared, id)
	}
	if m != nil {
		for _, e := range m.Endpoints(defaults) {
			f.declared[e.EndpointID] = e.Timeout
			f.byApp[app] = append(f.byApp[app], e.EndpointID)
		}
	}
	for _, id := range before {
		if _, still := f.declared[id]; !still {
			gone = append(gone, id)
		}
	}
	return gone
}

func (f *fleet) declares(id streams.EndpointID) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	_, ok := f.declared[id]
	return ok
}

// setGate takes over a gate, nil for one that is gone. A key that somebody put
// into the bucket by hand may be any bytes, which a label may not.
func (f *fleet) setGate(id streams.EndpointID, g *streams.Gate) {
	if !streams.ValidName(id.Capability) || !streams.ValidName(id.App) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if g == nil {
		delete(f.gates, id)
	} else {
		f.gates[id] = *g
	}
}

// setHealth takes over an app's health, nil for one that is checked no longer.
func (f *fleet) setHealth(app string, h *streams.Health) {
	if !streams.ValidName(app) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if h == nil {
		delete(f.healths, app)
	} else {
		f.healths[app] = h.State
	}
}

// leastNamed is how many endpoints whose breaker is not closed, or that are held
// back by their windows, and apps that are not healthy, are named even when few
// endpoints have series of their own: there are alerts on them.
const leastNamed = 100

var (
	endpointsDesc = prometheus.NewDesc("backstop_endpoints",
		"Endpoints that manifests declare.", []string{"capability"}, nil)
	timeoutDesc = prometheus.NewDesc("backstop_endpoint_timeout_seconds",
		"How long one attempt at the endpoint may take.", []string{"capability", "app"}, nil)
	breakersDesc = prometheus.NewDesc("backstop_breakers",
		"Endpoints that are not simply open for traffic, by state.", []string{"state"}, nil)
	breakerDesc = prometheus.NewDesc("backstop_breaker_state",
		"Always 1, for each endpoint whose breaker is not closed; a closed one has no series.", []string{"capability", "app", "state"}, nil)
	appsDesc = prometheus.NewDesc("backstop_apps",
		"Apps whose health is checked, by state.", []string{"state"}, nil)
	appHealthDesc = prometheus.NewDesc("backstop_app_health",
		"Always 1, for each app that is degraded or unhealthy by its health checks; a healthy one has no series.", []string{"app", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (f *fleet) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{endpointsDesc, timeoutDesc, breakersDesc, breakerDesc, appsDesc, appHealthDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (f *fleet) Collect(metrics chan<- prometheus.Metric) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	perCapability := make(map[string]int)
	for id, timeout := range f.declared {
		perCapability[id.Capability]++
		if f.names.has(id) {
			metrics <- gauge(timeoutDesc, timeout.Seconds(), id.Capability, id.App)
		}
	}
	for capability, n := range perCapability {
		metrics <- gauge(endpointsDesc, float64(n), capability)
	}
	states := map[streams.GateState]int{streams.GateOpen: 0, streams.GateHalfOpen: 0, streams.GateForced: 0, streams.GateDisabled: 0}
	now, named := time.Now(), 0
	// In order, so that those beyond the limit are the same at each scrape.
	for _, id := range slices.SortedFunc(maps.Keys(f.gates), streams.EndpointID.Compare) {
		state := stateAt(f.gates[id], now)
		if _, known := states[state]; !known {
			continue // put there by hand
		}
		states[state]++
		if named < max(f.names.most, leastNamed) {
			named++
			metrics <- gauge(breakerDesc, 1, id.Capability, id.App, string(state))
		}
	}
	for state, n := range states {
		metrics <- gauge(breakersDesc, float64(n), string(state))
	}
	f.collectHealth(metrics)
}

// collectHealth collects how apps are. The lock is held.
func (f *fleet) collectHealth(metrics chan<- prometheus.Metric) {
	states := map[streams.HealthState]int{streams.Healthy: 0, streams.Degraded: 0, streams.Unhealthy: 0, streams.HealthUnknown: 0}
	named := 0
	for _, app := range slices.Sorted(maps.Keys(f.healths)) {
		state := f.healths[app]
		if _, known := states[state]; !known {
			state = streams.HealthUnknown // put there by hand
		}
		states[state]++
		if sick := state == streams.Degraded || state == streams.Unhealthy; sick && named < max(f.names.most, leastNamed) {
			named++
			metrics <- gauge(appHealthDesc, 1, app, string(state))
		}
	}
	for state, n := range states {
		metrics <- gauge(appsDesc, float64(n), string(state))
	}
}

// stateAt is the state now: when its time is over, an open breaker lets probes
// through, which no replica writes down.
func stateAt(g streams.Gate, now time.Time) streams.GateState {
	if g.State == streams.GateOpen && !g.Until.IsZero() && !now.Before(g.Until) {
		return streams.GateHalfOpen
	}
	return g.State
}

func gauge(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}
