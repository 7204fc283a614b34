package admin

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/consumers/alerts"
	"backstop/consumers/rollup"
	"backstop/streams"
	"backstop/streams/manifest"
)

// overview is the state of everything, as an operator wants it at a glance.
type overview struct {
	Time time.Time `json:"time"`
	rates
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

	lately rollup.Overview // of degradedSpan, for the page
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
	Health *streams.Health `json:"health"`
	rates
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
	rates
	// Points are the attempts hour by hour. They are there when one app alone
	// is asked for: of thousands of endpoints they would be too many.
	Points []rollup.Point `json:"points,omitempty"`
}

// overviewSpan is how far back rates go.
const overviewSpan = 24 * time.Hour

// rates are what came of the attempts of overviewSpan.
type rates struct {
	Attempts  uint64 `json:"attempts"`
	Succeeded uint64 `json:"succeeded"`
	TimedOut  uint64 `json:"timedOut"`
	// Refused made no request: the breaker was open, or a limit reached.
	Refused uint64 `json:"refused"`
	// SuccessRate is from 0 to 1. It and the durations are null where no
	// attempt says anything.
	SuccessRate *float64 `json:"successRate"`
	AverageMs   *float64 `json:"averageMs"`
	P50Ms       *float64 `json:"p50Ms"`
	P95Ms       *float64 `json:"p95Ms"`
	P99Ms       *float64 `json:"p99Ms"`
}

func ratesOf(s rollup.Stats) rates {
	r := rates{Attempts: s.Attempts, Succeeded: s.Succeeded, TimedOut: s.TimedOut(), Refused: s.Refused}
	if rate, ok := s.SuccessRate(); ok {
		r.SuccessRate = &rate
	}
	if average := s.AverageMs(); s.Attempts > 0 {
		r.AverageMs, r.P50Ms, r.P95Ms, r.P99Ms = &average, &s.P50Ms, &s.P95Ms, &s.P99Ms
	}
	return r
}

func getOverview(w http.ResponseWriter, r *request) error {
	app := r.param("app")
	now := time.Now()
	all, err := r.backend.overview(r.Context(), now)
	if err != nil {
		return err
	}
	if app != "" {
		all.Apps = slices.DeleteFunc(all.Apps, func(a appOverview) bool { return a.App != app })
		for _, a := range all.Apps {
			if err := r.backend.points(r.Context(), now, a); err != nil {
				return err
			}
		}
	}
	return reply(w, all)
}

// points adds to each endpoint of an app what came of its attempts hour by hour.
func (b *Backend) points(ctx context.Context, now time.Time, a appOverview) error {
	if b.Rollups == nil {
		return nil
	}
	for i, e := range a.Endpoints {
		id := streams.EndpointID{Capability: e.Capability, App: a.App}
		points, err := b.Rollups.Series(ctx, id, now.Add(-overviewSpan), now, time.Hour)
		if err != nil {
			return err
		}
		a.Endpoints[i].Points = points
	}
	return nil
}

// rollupWithin is how long the overview waits for the rollups, which are read
// once after a start.
const rollupWithin = 5 * time.Second

// measured returns what came of the attempts since then.
func (b *Backend) measured(ctx context.Context, since time.Time) (rollup.Overview, error) {
	if b.Rollups == nil {
		return rollup.Overview{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, rollupWithin)
	defer cancel()
	return b.Rollups.Overview(ctx, since)
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
	came    rollup.Overview
	byApp   map[string]rollup.Stats
	lately  map[string]rates // by app, within degradedSpan
}

func (b *Backend) overview(ctx context.Context, now time.Time) (overview, error) {
	o := overview{Time: now.UTC(), Apps: []appOverview{}}
	f, err := b.facts(ctx, &o)
	if err != nil {
		return o, err
	}
	if f.came, err = b.measured(ctx, now.Add(-overviewSpan)); err != nil {
		return o, err
	}
	if o.lately, err = b.measured(ctx, now.Add(-degradedSpan)); err != nil {
		return o, err
	}
	for _, s := range o.lately.Apps {
		f.lately[s.App] = ratesOf(s)
	}
	o.rates = ratesOf(f.came.Total)
	for _, s := range f.came.Apps {
		f.byApp[s.App] = s
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
		byApp: make(map[string]rollup.Stats), lately: make(map[string]rates),
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
	if o.Alerts, err = b.Ops.Alerts(ctx); err != nil {
		return f, err
	}
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
	a.rates = ratesOf(f.byApp[stored.App])
	slices.SortFunc(a.Endpoints, func(x, y endpointOverview) int { return strings.Compare(x.Capability, y.Capability) })
	a.judge(stored.Err, f.lately[stored.App])
	return a
}

func endpointView(declared manifest.Endpoint, f facts) endpointOverview {
	id := declared.EndpointID
	e := endpointOverview{Capability: id.Capability, Kind: "call", TimeoutMs: declared.Timeout.Milliseconds(), DeadLetters: f.letters[id], rates: ratesOf(f.came.Endpoint(id))}
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

// degradedBelow is the success rate within degradedSpan below which an app is
// degraded: those of the alert.
const (
	degradedBelow = alerts.RateBelow
	degradedSpan  = alerts.RateWindow
)

// judge decides how an app is: down when nothing of it gets traffic or its
// health check fails, degraded when a part of it is in trouble.
func (a *appOverview) judge(unreadable error, lately rates) {
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
	case lately.SuccessRate != nil && *lately.SuccessRate < degradedBelow:
		a.State, a.Because = stateDegraded, "attempts fail"
	}
}
