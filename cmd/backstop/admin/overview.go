package admin

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
	"backstop/streams/manifest"
)

// overview is the state of everything, as an operator wants it at a glance.
type overview struct {
	Time time.Time `json:"time"`
	// OpenBreakers are circuits that are open or half-open; Disabled are
	// endpoints that are switched off.
	OpenBreakers int `json:"openBreakers"`
	Disabled     int `json:"disabled"`
	// DeadLetters are those that wait for a decision.
	DeadLetters ops.DeadLetterCounts `json:"deadLetters"`
	// Backlog is events that wait: in shared lanes, and in endpoints' own.
	Backlog uint64      `json:"backlog"`
	Queues  []ops.Queue `json:"queues"`
	// Alerts are those that are raised, the longest first.
	Alerts []streams.Alert `json:"alerts"`
	// Apps are all apps, the sick first: they are why somebody looks.
	Apps []appOverview `json:"apps"`
}

// The states of an app in the overview.
const (
	stateHealthy  = "healthy"
	stateDegraded = "degraded"
	stateDown     = "down"
)

// appOverview is one app.
type appOverview struct {
	App  string `json:"app"`
	Name string `json:"name"`
	// State is "healthy", "degraded" or "down".
	State string `json:"state"`
	// Because says why it is not healthy.
	Because string `json:"because,omitempty"`
	// Health is null for an app that is not checked.
	Health      *streams.Health    `json:"health"`
	DeadLetters uint64             `json:"deadLetters"`
	Endpoints   []endpointOverview `json:"endpoints"`
}

// endpointOverview is one endpoint.
type endpointOverview struct {
	Capability string `json:"capability"`
	// Kind is "event" or "call".
	Kind      string `json:"kind"`
	TimeoutMs int64  `json:"timeoutMs"`
	// Breaker is null while traffic flows.
	Breaker *streams.Gate `json:"breaker"`
	// Lane is null unless the endpoint has a lane of its own.
	Lane        *ops.Lane `json:"lane"`
	DeadLetters uint64    `json:"deadLetters"`
}

func getOverview(w http.ResponseWriter, r *request) error {
	all, err := r.backend.overview(r.Context(), time.Now())
	if err != nil {
		return err
	}
	return reply(w, all)
}

// mostCounted is of how many endpoints the overview tells how many dead letters
// they have, the most first. Publishers may name as many apps as they like that
// don't exist.
const mostCounted = 1000

// facts are what an overview is made of, by endpoint.
type facts struct {
	apps    []manifest.Stored
	health  map[string]streams.Health
	gates   map[streams.EndpointID]streams.Gate
	lanes   map[streams.EndpointID]ops.Lane
	letters map[streams.EndpointID]uint64
}

func (b *Backend) overview(ctx context.Context, now time.Time) (overview, error) {
	o := overview{Time: now.UTC(), Apps: []appOverview{}}
	f, err := b.facts(ctx, &o)
	if err != nil {
		return o, err
	}
	for _, stored := range f.apps {
		o.Apps = append(o.Apps, b.appOverview(stored, f))
	}
	slices.SortStableFunc(o.Apps, func(x, y appOverview) int {
		return cmp.Or(cmp.Compare(rank(x.State), rank(y.State)), strings.Compare(x.App, y.App))
	})
	return o, nil
}

func rank(state string) int {
	return slices.Index([]string{stateDown, stateDegraded, stateHealthy}, state)
}

// facts gathers what the overview is made of, and counts what needs no app.
func (b *Backend) facts(ctx context.Context, o *overview) (facts, error) {
	f := facts{
		gates: make(map[streams.EndpointID]streams.Gate), lanes: make(map[streams.EndpointID]ops.Lane), letters: make(map[streams.EndpointID]uint64),
	}
	store, err := b.Ops.Manifests(ctx)
	if err != nil {
		return f, err
	}
	if f.apps, err = store.List(ctx); err != nil {
		return f, err
	}
	if f.health, err = b.Ops.HealthByApp(ctx); err != nil {
		return f, err
	}
	gates, err := b.Ops.Gates(ctx)
	if err != nil {
		return f, err
	}
	for _, g := range gates {
		f.gates[g.ID()] = g
		if g.State == streams.GateDisabled {
			o.Disabled++
		} else {
			o.OpenBreakers++
		}
	}
	if o.Queues, err = b.Ops.Queues(ctx, 0); err != nil {
		return f, err
	}
	for _, q := range o.Queues {
		o.Backlog += q.Backlog
	}
	lanes, err := b.Ops.Lanes(ctx)
	if err != nil {
		return f, err
	}
	for _, l := range lanes {
		f.lanes[streams.EndpointID{Capability: l.Capability, App: l.App}] = l
		o.Backlog += l.Backlog
	}
	alerts, err := b.Ops.Alerts(ctx)
	if err != nil {
		return f, err
	}
	o.Alerts = append([]streams.Alert{}, alerts...)
	if o.DeadLetters, err = b.Ops.CountDeadLetters(ctx); err != nil {
		return f, err
	}
	for _, c := range o.DeadLetters.Endpoints {
		f.letters[streams.EndpointID{Capability: c.Capability, App: c.App}] = c.Count
	}
	o.DeadLetters.Endpoints = o.DeadLetters.Endpoints[:min(len(o.DeadLetters.Endpoints), mostCounted)]
	return f, nil
}

func (b *Backend) appOverview(stored manifest.Stored, f facts) appOverview {
	a := appOverview{App: stored.App, Name: stored.App, State: stateHealthy, Endpoints: []endpointOverview{}}
	if stored.Err == nil {
		a.Name = stored.Manifest.Title()
	}
	if h, checked := f.health[stored.App]; checked {
		a.Health = &h
	}
	for _, declared := range stored.Manifest.Endpoints(b.Defaults) {
		e := endpointView(declared, f)
		a.Endpoints = append(a.Endpoints, e)
		a.DeadLetters += e.DeadLetters
	}
	slices.SortFunc(a.Endpoints, func(x, y endpointOverview) int { return strings.Compare(x.Capability, y.Capability) })
	a.judge(stored.Err)
	return a
}

func endpointView(declared manifest.Endpoint, f facts) endpointOverview {
	id := declared.EndpointID
	e := endpointOverview{Capability: id.Capability, Kind: "call", TimeoutMs: declared.Timeout.Milliseconds(), DeadLetters: f.letters[id]}
	if declared.Async {
		e.Kind = "event"
	}
	if g, ok := f.gates[id]; ok {
		e.Breaker = &g
	}
	if l, ok := f.lanes[id]; ok {
		e.Lane = &l
	}
	return e
}

// judge decides how an app is: down when nothing of it gets traffic or its
// health check fails, degraded when a part of it is in trouble.
func (a *appOverview) judge(unreadable error) {
	shut := 0
	for _, e := range a.Endpoints {
		if e.Breaker != nil {
			shut++
		}
	}
	switch {
	case unreadable != nil:
		a.State, a.Because = stateDown, "its manifest can't be read"
	case a.Health != nil && a.Health.State == streams.Unhealthy:
		a.State, a.Because = stateDown, "its health check fails"
	case shut > 0 && shut == len(a.Endpoints):
		a.State, a.Because = stateDown, "no endpoint gets traffic"
	case shut > 0:
		a.State, a.Because = stateDegraded, "an endpoint gets no traffic"
	case a.Health != nil && a.Health.State == streams.Degraded:
		a.State, a.Because = stateDegraded, "its health check is slow, or says so"
	}
}
