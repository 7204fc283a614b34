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
	// Rates are over the last 24 h; null without attempts, or without rollups.
	SuccessRate *float64 `json:"successRate"`
	MeanMs      *float64 `json:"meanMs"`
	Attempts    uint64   `json:"attempts"`
	// OpenBreakers are circuits that are open or half-open; Disabled are
	// endpoints that are switched off.
	OpenBreakers int `json:"openBreakers"`
	Disabled     int `json:"disabled"`
	// DeadLetters are those that wait for a decision.
	DeadLetters ops.DeadLetterCounts `json:"deadLetters"`
	// Backlog is events that wait: in shared lanes, and in endpoints' own.
	Backlog uint64        `json:"backlog"`
	Queues  []ops.Queue   `json:"queues"`
	Apps    []appOverview `json:"apps"`
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
	Because     string             `json:"because,omitempty"`
	Health      *HealthCheck       `json:"health"`
	SuccessRate *float64           `json:"successRate"`
	MeanMs      *float64           `json:"meanMs"`
	Attempts    uint64             `json:"attempts"`
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
	Breaker     *streams.Gate `json:"breaker"`
	Lane        *ops.Lane     `json:"lane"`
	DeadLetters uint64        `json:"deadLetters"`
	Attempts    uint64        `json:"attempts"`
	TimedOut    uint64        `json:"timedOut"`
	SuccessRate *float64      `json:"successRate"`
	MeanMs      *float64      `json:"meanMs"`
	P50Ms       *float64      `json:"p50Ms"`
	P95Ms       *float64      `json:"p95Ms"`
	P99Ms       *float64      `json:"p99Ms"`
	Points      []Point       `json:"points"`
}

// overviewSpan is how far back its rates go.
const overviewSpan = 24 * time.Hour

// degradedBelow is the success rate below which an app is degraded: that of
// the alert.
const degradedBelow = 0.95

func getOverview(w http.ResponseWriter, r *request) error {
	all, err := r.backend.overview(r.Context(), time.Now())
	if err != nil {
		return err
	}
	if app := r.param("app"); app != "" {
		all.Apps = slices.DeleteFunc(all.Apps, func(a appOverview) bool { return a.App != app })
	}
	return reply(w, http.StatusOK, all)
}

// facts are what an overview is made of, by endpoint or app.
type facts struct {
	apps    []manifest.Stored
	gates   map[streams.EndpointID]streams.Gate
	lanes   map[streams.EndpointID]ops.Lane
	letters map[streams.EndpointID]uint64
	stats   map[streams.EndpointID]EndpointStats
	health  map[string]HealthCheck
}

func (b *Backend) overview(ctx context.Context, now time.Time) (overview, error) {
	o := overview{Time: now.UTC(), Apps: []appOverview{}}
	f, err := b.facts(ctx, now, &o)
	if err != nil {
		return o, err
	}
	var total figures
	for _, stored := range f.apps {
		app, figures := b.appOverview(stored, f)
		o.Apps = append(o.Apps, app)
		total.merge(figures)
	}
	o.Attempts, o.SuccessRate, o.MeanMs = total.attempts, total.rate(), total.mean()
	// The sick first: they are why somebody looks.
	slices.SortStableFunc(o.Apps, func(x, y appOverview) int {
		return cmp.Or(cmp.Compare(rank(x.State), rank(y.State)), strings.Compare(x.App, y.App))
	})
	return o, nil
}

func rank(state string) int {
	return slices.Index([]string{stateDown, stateDegraded, stateHealthy}, state)
}

// facts gathers what the overview is made of, and counts what needs no app.
func (b *Backend) facts(ctx context.Context, now time.Time, o *overview) (facts, error) {
	f := facts{
		gates: make(map[streams.EndpointID]streams.Gate), lanes: make(map[streams.EndpointID]ops.Lane),
		letters: make(map[streams.EndpointID]uint64), stats: make(map[streams.EndpointID]EndpointStats),
	}
	store, err := b.Ops.Manifests(ctx)
	if err != nil {
		return f, err
	}
	if f.apps, err = store.List(ctx); err != nil {
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
	if o.DeadLetters, err = b.Ops.CountDeadLetters(ctx); err != nil {
		return f, err
	}
	for _, c := range o.DeadLetters.Endpoints {
		f.letters[streams.EndpointID{Capability: c.Capability, App: c.App}] = c.Count
	}
	return f, b.measured(ctx, now, &f)
}

// measured adds what other parts know, if they are there.
func (b *Backend) measured(ctx context.Context, now time.Time, f *facts) error {
	if b.Stats != nil {
		stats, err := b.Stats.Endpoints(ctx, now.Add(-overviewSpan))
		if err != nil {
			return err
		}
		for _, s := range stats {
			f.stats[s.EndpointID] = s
		}
	}
	if b.Health != nil {
		var err error
		if f.health, err = b.Health.Checks(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *Backend) appOverview(stored manifest.Stored, f facts) (appOverview, figures) {
	described := ops.Describe(stored)
	a := appOverview{App: stored.App, Name: cmp.Or(described.Name, stored.App), State: stateHealthy, Endpoints: []endpointOverview{}}
	if check, ok := f.health[stored.App]; ok {
		a.Health = &check
	}
	var total figures
	for _, declared := range stored.Manifest.Endpoints(b.Defaults) {
		e := endpointView(declared, f)
		a.Endpoints = append(a.Endpoints, e)
		a.DeadLetters += e.DeadLetters
		total.add(f.stats[declared.EndpointID])
	}
	slices.SortFunc(a.Endpoints, func(x, y endpointOverview) int { return strings.Compare(x.Capability, y.Capability) })
	a.Attempts, a.SuccessRate, a.MeanMs = total.attempts, total.rate(), total.mean()
	a.judge(described.Error)
	return a, total
}

func endpointView(declared manifest.Endpoint, f facts) endpointOverview {
	id := declared.EndpointID
	e := endpointOverview{
		Capability: id.Capability, Kind: "call", TimeoutMs: declared.Timeout.Milliseconds(), DeadLetters: f.letters[id], Points: []Point{},
	}
	if declared.Async {
		e.Kind = "event"
	}
	if g, ok := f.gates[id]; ok {
		e.Breaker = &g
	}
	if l, ok := f.lanes[id]; ok {
		e.Lane = &l
	}
	s, ok := f.stats[id]
	if !ok || s.Attempts == 0 {
		return e
	}
	var one figures
	one.add(s)
	e.Attempts, e.TimedOut, e.SuccessRate, e.MeanMs = s.Attempts, s.TimedOut, one.rate(), one.mean()
	e.P50Ms, e.P95Ms, e.P99Ms = &s.P50Ms, &s.P95Ms, &s.P99Ms
	e.Points = append(e.Points, s.Points...)
	return e
}

// judge decides how an app is: down when nothing of it gets traffic or its
// health check fails, degraded when a part of it has trouble.
func (a *appOverview) judge(unreadable string) {
	shut := 0
	for _, e := range a.Endpoints {
		if e.Breaker != nil {
			shut++
		}
	}
	set := func(state, because string) {
		if rank(state) < rank(a.State) {
			a.State, a.Because = state, because
		}
	}
	switch {
	case unreadable != "":
		set(stateDown, "its manifest can't be read")
	case a.Health != nil && a.Health.State == "unhealthy":
		set(stateDown, "its health check fails")
	case shut > 0 && shut == len(a.Endpoints):
		set(stateDown, "no endpoint gets traffic")
	case shut > 0:
		set(stateDegraded, "an endpoint gets no traffic")
	case a.Health != nil && a.Health.State == "degraded":
		set(stateDegraded, "its health check is slow or failed lately")
	case a.SuccessRate != nil && *a.SuccessRate < degradedBelow:
		set(stateDegraded, "attempts fail")
	}
}

// figures add up endpoints.
type figures struct {
	attempts, successes uint64
	totalMs             float64
}

func (f *figures) add(s EndpointStats) {
	f.merge(figures{s.Attempts, s.Successes, s.MeanMs * float64(s.Attempts)})
}

func (f *figures) merge(g figures) {
	f.attempts, f.successes, f.totalMs = f.attempts+g.attempts, f.successes+g.successes, f.totalMs+g.totalMs
}

// rate is the part that succeeded, nil of none.
func (f *figures) rate() *float64 { return f.per(float64(f.successes)) }

// mean is the mean duration in milliseconds, nil of none.
func (f *figures) mean() *float64 { return f.per(f.totalMs) }

func (f *figures) per(total float64) *float64 {
	if f.attempts == 0 {
		return nil
	}
	v := total / float64(f.attempts)
	return &v
}
