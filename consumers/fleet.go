package consumers

import (
	"slices"
	"sync"

	"backstop/dispatcher/breaker"
	"backstop/dispatcher/limit"
	"backstop/streams"
	"backstop/streams/manifest"
)

// fleet is every endpoint that this process knows, by name.
type fleet struct {
	defaults manifest.Defaults
	breakers *breaker.Set
	limits   *limit.Set
	run      func(*endpoint, *delivery)
	busy     *sync.WaitGroup

	mu        sync.RWMutex
	endpoints map[streams.EndpointID]*endpoint
	byApp     map[string][]streams.EndpointID // what each app's manifest declares
	async     map[string][]string             // capability → apps that take its events, sorted
}

func newFleet(cfg Config, run func(*endpoint, *delivery), busy *sync.WaitGroup) *fleet {
	return &fleet{
		defaults: cfg.Defaults, breakers: cfg.Breakers, limits: cfg.Limits, run: run, busy: busy,
		endpoints: make(map[streams.EndpointID]*endpoint),
		byApp:     make(map[string][]streams.EndpointID),
		async:     make(map[string][]string),
	}
}

// lookup returns the endpoint, or nil when nothing has named it yet. Publishers
// can name what they like; making an endpoint of each would let them fill the
// memory.
func (f *fleet) lookup(id streams.EndpointID) *endpoint {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.endpoints[id]
}

// declared returns the endpoint if a manifest declares it, and nil otherwise.
func (f *fleet) declared(id streams.EndpointID) *endpoint {
	if e := f.lookup(id); e != nil && e.declared.Load() != nil {
		return e
	}
	return nil
}

// named returns the id as it may be counted: the app is empty when no manifest
// declares the endpoint.
func (f *fleet) named(id streams.EndpointID) streams.EndpointID {
	if f.declared(id) == nil {
		id.App = ""
	}
	return id
}

// get returns the endpoint, making it when it is new.
func (f *fleet) get(id streams.EndpointID) *endpoint {
	if e := f.lookup(id); e != nil {
		return e
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.getLocked(id)
}

func (f *fleet) getLocked(id streams.EndpointID) *endpoint {
	e := f.endpoints[id]
	if e == nil {
		e = newEndpoint(id, f.run, f.busy)
		f.endpoints[id] = e
	}
	return e
}

// declare takes over an app's manifest; nil means that the app was removed.
// It reports whether the set of capabilities that take events has changed.
func (f *fleet) declare(app string, m *manifest.Manifest) (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := len(f.async)
	gone := f.byApp[app]
	delete(f.byApp, app)
	if m != nil {
		for _, config := range m.Endpoints(f.defaults) {
			id := config.EndpointID
			f.byApp[app] = append(f.byApp[app], id)
			gone = slices.DeleteFunc(gone, func(g streams.EndpointID) bool { return g == id })
			e := f.getLocked(id)
			e.declared.Store(&declaration{config: config, breaker: f.breakers.Get(id, config.Breaker), limiter: f.limits.Get(config)})
			e.applyGate()
			changed = f.subscribe(id, config.Async) || changed
			e.wake()
		}
	}
	for _, id := range gone {
		e := f.getLocked(id)
		e.declared.Store(nil)
		changed = f.subscribe(id, false) || changed
		f.breakers.Remove(id)
		f.limits.Remove(id)
		e.wake()
	}
	return changed || len(f.async) != before
}

// subscribe records whether the app takes the capability's events, and reports
// whether that made the capability's first or took its last. The lock is held.
func (f *fleet) subscribe(id streams.EndpointID, on bool) (changed bool) {
	apps := f.async[id.Capability]
	at, found := slices.BinarySearch(apps, id.App)
	switch {
	case on && !found:
		// Copied, because takers hands the slice out.
		f.async[id.Capability] = slices.Insert(slices.Clone(apps), at, id.App)
		return len(apps) == 0
	case !on && found:
		if len(apps) == 1 {
			delete(f.async, id.Capability)
			return true
		}
		f.async[id.Capability] = slices.Delete(slices.Clone(apps), at, at+1)
	}
	return false
}

// takers returns the apps that take the capability's events, sorted. The
// caller must not change it.
func (f *fleet) takers(capability string) []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.async[capability]
}

// capabilities returns those that at least one app takes events of, sorted.
func (f *fleet) capabilities() []string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	names := make([]string, 0, len(f.async))
	for name := range f.async {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// all returns every endpoint.
func (f *fleet) all() []*endpoint {
	f.mu.RLock()
	defer f.mu.RUnlock()
	all := make([]*endpoint, 0, len(f.endpoints))
	for _, e := range f.endpoints {
		all = append(all, e)
	}
	return all
}
