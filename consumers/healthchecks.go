package consumers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"backstop/dispatcher/health"
	"backstop/streams"
	"backstop/streams/bucket"
	"backstop/streams/manifest"
)

// maxChecks is how many apps are checked at once, at most. A check takes up to
// 5 s, and as long again to look for metrics.
const maxChecks = 128

// HealthConfig says how apps' health is checked.
type HealthConfig struct {
	// Interval is the time between two checks of an app that is healthy.
	// Zero: apps are not checked.
	Interval time.Duration
	// Get makes the requests: the dispatcher's Poster. Required, but for an
	// Interval of zero.
	Get health.Getter
	// Observe is told what each check said that this replica made; HealthUnknown
	// means that it taught nothing. Nil is told nothing.
	Observe func(result streams.HealthState)
}

// healthChecks checks every app that says where, while this replica holds the
// lease for it, and keeps the health bucket: an entry for each app, written
// when there is something new to see, and once an interval. The bucket is also
// the memory: whoever takes over goes on from what is there.
type healthChecks struct {
	p     *Pipeline
	cfg   HealthConfig
	pace  pace
	store *streams.Healths

	mu      sync.Mutex
	targets map[string]target               // by app: what there is to check
	open    map[string]map[string]time.Time // app → capability whose breaker is open → until when
	// agenda and known are nil while another replica checks.
	agenda *agenda
	known  map[string]knownHealth
	// complained is when the log was last told of a fault on our side.
	complained time.Time
}

// target is where an app's health is checked, and its metrics looked for.
type target struct{ health, metrics string }

// knownHealth is an app's entry, with its last check when that was too little
// news to be stored.
type knownHealth struct {
	streams.Health
	stored time.Time // CheckedAt of the stored entry
}

func newHealthChecks(p *Pipeline, cfg HealthConfig, store *streams.Healths) *healthChecks {
	if cfg.Observe == nil {
		cfg.Observe = func(streams.HealthState) {}
	}
	return &healthChecks{
		p: p, cfg: cfg, pace: pace{cfg.Interval}, store: store,
		targets: make(map[string]target), open: make(map[string]map[string]time.Time),
	}
}

// declare takes over an app's manifest; nil means that the app was removed. It
// is checked soon, or its entry removed.
func (h *healthChecks) declare(app string, m *manifest.Manifest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var t target
	if m != nil {
		t = target{m.HealthURL(), m.MetricsURL()}
	}
	if t.health == "" {
		delete(h.targets, app)
	} else {
		h.targets[app] = t
	}
	h.hasten(app)
}

// gate takes over whether the breaker of an endpoint is open: a reason to look
// at its app at once.
func (h *healthChecks) gate(id streams.EndpointID, g *streams.Gate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, was := h.open[id.App][id.Capability]
	switch is := g != nil && g.State == streams.GateOpen; {
	case is:
		if h.open[id.App] == nil {
			h.open[id.App] = make(map[string]time.Time)
		}
		h.open[id.App][id.Capability] = g.Until
		if !was {
			h.hasten(id.App)
		}
	case was:
		delete(h.open[id.App], id.Capability)
		if len(h.open[id.App]) == 0 {
			delete(h.open, id.App)
		}
	}
}

// waiting returns the endpoints of the app whose breaker waits to let probes
// through. The lock is held.
func (h *healthChecks) waiting(app string, now time.Time) (ids []streams.EndpointID) {
	for capability, until := range h.open[app] {
		if until.After(now) {
			ids = append(ids, streams.EndpointID{Capability: capability, App: app})
		}
	}
	return ids
}

// hasten gives the app a turn soon, if this replica checks and there is
// anything to do for it. The lock is held.
func (h *healthChecks) hasten(app string) {
	if h.agenda == nil {
		return
	}
	_, declared := h.targets[app]
	if _, known := h.known[app]; declared || known {
		h.agenda.sooner(app, h.pace.soon(time.Now(), 1))
	}
}

// run checks until ctx ends, which is when the lease is lost at the latest.
func (h *healthChecks) run(ctx context.Context) {
	entries, ok := h.load(ctx)
	if !ok {
		return
	}
	h.begin(entries).run(ctx, maxChecks, h.turn)
	h.end()
}

// load reads the bucket; false means that ctx has ended.
func (h *healthChecks) load(ctx context.Context) ([]streams.Health, bool) {
	for ctx.Err() == nil {
		entries, err := h.store.List(ctx)
		if err == nil {
			return entries, true
		}
		if ctx.Err() == nil {
			h.p.log.Warn("can't read the health bucket, trying again", "error", err)
			sleep(ctx, time.Second)
		}
	}
	return nil, false
}

// begin gives every app its first turn: those whose time has passed, soon and
// one after the other; the others at the time that they would have had without
// the change of replica.
func (h *healthChecks) begin(entries []streams.Health) *agenda {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	h.agenda, h.known = newAgenda(), make(map[string]knownHealth, len(entries))
	var late []string
	for _, e := range entries {
		h.known[e.App] = knownHealth{e, e.CheckedAt}
		if _, declared := h.targets[e.App]; !declared {
			late = append(late, e.App) // to be removed
		}
	}
	for app := range h.targets {
		known, there := h.known[app]
		if !there || h.pace.overdue(known.CheckedAt, now) {
			late = append(late, app)
			continue
		}
		checked := known.CheckedAt
		if checked.After(now) { // by another clock
			checked = now
		}
		h.agenda.sooner(app, h.after(known.Health, checked))
	}
	for _, app := range late {
		h.agenda.sooner(app, h.pace.soon(now, len(late)))
	}
	h.p.log.Info("this replica checks the apps' health", "apps", len(h.targets), "interval", h.cfg.Interval)
	return h.agenda
}

func (h *healthChecks) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agenda, h.known = nil, nil
}

// after returns when an app is checked next that was checked at the given time.
// The lock is held.
func (h *healthChecks) after(now streams.Health, checked time.Time) time.Time {
	if now.State == streams.Healthy && now.Result == streams.Healthy && len(h.waiting(now.App, checked)) == 0 {
		return h.pace.regular(now.App, checked)
	}
	return h.pace.sick(checked)
}

// turn checks an app and returns when it is checked next; zero for never.
func (h *healthChecks) turn(ctx context.Context, app string) (next time.Time) {
	h.mu.Lock()
	t, declared := h.targets[app]
	before := h.known[app]
	h.mu.Unlock()
	if !declared {
		return h.forget(ctx, app)
	}
	began := time.Now().UTC()
	result := health.Check(ctx, h.cfg.Get, t.health)
	if ctx.Err() != nil {
		return time.Time{}
	}
	h.cfg.Observe(result.State)
	if result.State == streams.HealthUnknown {
		h.complain(app, result.Err)
		return h.pace.sick(began)
	}
	if before.State == "" {
		before.State = streams.HealthUnknown
	}
	now := health.Next(before.Health, result, began)
	now.App, now.By = app, h.p.cfg.Replica
	now.Metrics = h.metrics(ctx, t.metrics, before.Metrics, result.State)
	return h.record(ctx, t, before, now)
}

// complainEvery is how often the log is told that checks fail for a fault on our
// side: while the network is down, they all do.
const complainEvery = time.Minute

func (h *healthChecks) complain(app string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); now.Sub(h.complained) >= complainEvery {
		h.complained = now
		h.p.log.Warn("apps' health can't be checked, for a fault on this side", "app", app, "error", err)
	}
}

// metrics looks for the app's metrics, if it answers at all.
func (h *healthChecks) metrics(ctx context.Context, url string, before streams.MetricsState, result streams.HealthState) streams.MetricsState {
	found := streams.MetricsUnknown
	if result != streams.Unhealthy {
		found = health.Metrics(ctx, h.cfg.Get, url)
	}
	if found == streams.MetricsUnknown && before != "" {
		return before
	}
	return found
}

// record takes over what a check made of an app's entry, and stores it if it is
// news. What can't be stored has not happened: the next check tells it again.
func (h *healthChecks) record(ctx context.Context, t target, before knownHealth, now streams.Health) (next time.Time) {
	h.mu.Lock()
	stale := h.targets[now.App] != t
	h.mu.Unlock()
	if stale { // it was about another URL
		return h.pace.soon(time.Now(), 1)
	}
	known := knownHealth{now, before.stored}
	if h.news(before, now) {
		revision, err := h.store.Put(ctx, now)
		if err != nil {
			return h.notStored(ctx, now.App, err)
		}
		known.Revision, known.stored = revision, now.CheckedAt
	}
	h.mu.Lock()
	h.known[now.App] = known
	h.mu.Unlock()
	if now.State != before.State {
		h.moved(ctx, before.State, now)
	}
	if recovers(before.Result, now.Result) {
		h.endWaits(ctx, now.App)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.after(now, now.CheckedAt)
}

// news tells whether an entry has to be stored: when something is worth
// showing, and once an interval. Durations, and the wording of an error, are
// different every time.
func (h *healthChecks) news(before knownHealth, now streams.Health) bool {
	was := before.Health
	return now.State != was.State || now.Result != was.Result || now.Status != was.Status ||
		now.Reason != was.Reason || now.Metrics != was.Metrics || now.By != was.By ||
		now.CheckedAt.Sub(before.stored) >= h.cfg.Interval*9/10 // before the jitter makes it two
}

// notStored takes over an entry that somebody else has changed, as a replica
// does that has just lost the lease; other errors pass.
func (h *healthChecks) notStored(ctx context.Context, app string, err error) (next time.Time) {
	if errors.Is(err, bucket.ErrConflict) {
		entry, _, failed := h.store.Get(ctx, app) // without one, its revision is 0
		if failed == nil {
			h.mu.Lock()
			h.known[app] = knownHealth{entry, entry.CheckedAt}
			h.mu.Unlock()
			return h.pace.soon(time.Now(), 1)
		}
		err = failed
	}
	if ctx.Err() == nil {
		h.p.log.Warn("an app's health could not be stored; it is checked again", "app", app, "error", err)
	}
	return h.pace.sick(time.Now())
}

// forget removes the entry of an app that is no more, or says no longer where
// its health is checked.
func (h *healthChecks) forget(ctx context.Context, app string) (next time.Time) {
	if err := h.store.Remove(ctx, app); err != nil {
		if ctx.Err() == nil {
			h.p.log.Warn("the health of a removed app could not be removed, trying again", "app", app, "error", err)
		}
		return h.pace.sick(time.Now())
	}
	h.mu.Lock()
	delete(h.known, app)
	h.mu.Unlock()
	return time.Time{}
}

// moved makes known that an app's state has changed.
func (h *healthChecks) moved(ctx context.Context, from streams.HealthState, now streams.Health) {
	level := slog.LevelInfo
	if now.State == streams.Unhealthy {
		level = slog.LevelWarn
	}
	h.p.log.Log(ctx, level, "health", "app", now.App, "from", string(from), "to", string(now.State), "error", now.Error)
	about := streams.EndpointID{App: now.App}
	details := map[string]any{"from": from, "to": now.State, "status": now.Status, "error": now.Error}
	switch {
	case now.State == streams.Unhealthy:
		h.p.notices.send(streams.NoticeAppUnhealthy, about,
			fmt.Sprintf("%s is unhealthy: %s", now.App, now.Error), details)
	case from == streams.Unhealthy:
		h.p.notices.send(streams.NoticeAppHealthy, about,
			fmt.Sprintf("%s answers its health checks again, and is %s", now.App, now.State), details)
	}
}

// recovers tells whether a check is the first good one after a bad one. That is
// enough to let probes through: should the app not work after all, they open the
// breaker again. Checks that were good all the while say nothing of what opened it.
func recovers(before, now streams.HealthState) bool {
	return now == streams.Healthy && (before == streams.Unhealthy || before == streams.Degraded)
}

// endWaits lets probes through to an app that works again, where a breaker is
// still waiting: on every replica, by way of the breakers bucket. What was
// opened by a person, or disabled, stays so.
func (h *healthChecks) endWaits(ctx context.Context, app string) {
	h.mu.Lock()
	ids := h.waiting(app, time.Now())
	h.mu.Unlock()
	for _, id := range ids {
		changed, err := h.p.gates.Hasten(ctx, id, h.p.clock.now(), "the app passes its health check again", h.p.cfg.Replica)
		switch {
		case err != nil && ctx.Err() == nil:
			h.p.log.Warn("the wait of a breaker could not be ended early; it ends by itself", "endpoint", id.String(), "error", err)
		case changed:
			h.p.log.Info("the app passes its health check again, so that its breaker lets probes through now", "endpoint", id.String())
		}
	}
}
