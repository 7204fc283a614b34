package consumers

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"backstop/consumers/alerts"
	"backstop/streams"
)

// alertEvery is how often the rules are evaluated, beside at once when a
// breaker opens.
const alertEvery = 10 * time.Second

// alerting raises and clears alerts. One replica does it, by the alerts bucket,
// so that a restart or another replica doesn't raise again what is raised.
//
// An alert is recorded, then announced, then recorded as announced; a crash in
// between announces it again, which de-duplication in NOTICES absorbs.
type alerting struct {
	p      *Pipeline
	kept   *streams.Alerts
	now    func() time.Time
	every  time.Duration
	sooner chan struct{} // one token when a breaker opened
	active atomic.Int64

	mu       sync.Mutex
	lastOpen map[streams.EndpointID]time.Time
}

func newAlerting(p *Pipeline, kept *streams.Alerts) *alerting {
	a := &alerting{
		p: p, kept: kept, now: p.cfg.Now, every: alertEvery,
		sooner: make(chan struct{}, 1), lastOpen: make(map[streams.EndpointID]time.Time),
	}
	if p.cfg.AlertEvery > 0 {
		a.every = p.cfg.AlertEvery
	}
	return a
}

// tripped tells whether a gate is that of a breaker which opened.
func tripped(g *streams.Gate) bool {
	return g != nil && g.State != streams.GateDisabled
}

// gateChanged notes when an endpoint's breaker was last open. Every replica
// does, so that whoever evaluates next knows of what opened and closed in between.
func (a *alerting) gateChanged(id streams.EndpointID, was, is *streams.Gate) {
	if !tripped(was) && !tripped(is) {
		return
	}
	a.mu.Lock()
	a.lastOpen[id] = a.now()
	a.mu.Unlock()
	if tripped(is) {
		select {
		case a.sooner <- struct{}{}:
		default:
		}
	}
}

// run evaluates until ctx ends.
func (a *alerting) run(ctx context.Context) {
	defer a.active.Store(0)
	for ctx.Err() == nil {
		if err := a.evaluate(ctx); err != nil && ctx.Err() == nil {
			a.p.log.Warn("can't evaluate alerts, trying again", "error", err)
			sleep(ctx, time.Second)
			continue
		}
		t := time.NewTimer(a.every)
		select {
		case <-ctx.Done():
		case <-a.sooner:
		case <-t.C:
		}
		t.Stop()
	}
}

// evaluate compares what is known with what is raised.
func (a *alerting) evaluate(ctx context.Context) error {
	raised, err := a.finish(ctx)
	if err != nil {
		return err
	}
	facts, err := a.facts(ctx)
	if err != nil {
		return err
	}
	changes := alerts.Evaluate(facts, raised)
	for _, alert := range changes.Raise {
		recorded, err := a.kept.Raise(ctx, alert)
		if err != nil {
			return err
		}
		if recorded {
			a.p.log.Warn("alert raised", "alert", alert.AlertKey.String(), "message", alert.Message)
			if err := a.announce(ctx, alert); err != nil {
				return err
			}
		}
	}
	for _, alert := range changes.Clear {
		recorded, err := a.kept.Clear(ctx, alert)
		if err != nil {
			return err
		}
		if recorded {
			a.p.log.Info("alert cleared", "alert", alert.AlertKey.String(), "message", alert.Message)
			if err := a.announce(ctx, alert); err != nil {
				return err
			}
		}
	}
	a.active.Store(int64(len(raised) + len(changes.Raise) - len(changes.Clear)))
	return nil
}

// finish returns what is raised, having announced what a crash left
// unannounced.
func (a *alerting) finish(ctx context.Context) (map[streams.AlertKey]streams.Alert, error) {
	all, err := a.kept.All(ctx)
	if err != nil {
		return nil, err
	}
	raised := make(map[streams.AlertKey]streams.Alert, len(all))
	for _, alert := range all {
		if !alert.Announced || !alert.Active() {
			if err := a.announce(ctx, alert); err != nil {
				return nil, err
			}
		}
		if alert.Active() {
			raised[alert.AlertKey] = alert
		}
	}
	return raised, nil
}

// announce publishes the alert's notice and records that.
func (a *alerting) announce(ctx context.Context, alert streams.Alert) error {
	notice := alert.Notice()
	msg, err := notice.Msg()
	if err != nil {
		return err
	}
	id := fmt.Sprintf("alert:%s:%s:%s", alert.AlertKey, strconv.FormatInt(alert.Since.UnixNano(), 36), notice.Kind)
	msg.Header.Set(streams.HeaderMsgID, id)
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err := a.p.js.PublishMsg(ctx, msg); err != nil {
		return fmt.Errorf("publish the notice of the alert %s: %w", alert.AlertKey, err)
	}
	return a.kept.Announce(ctx, alert)
}

// facts gathers what the rules look at.
func (a *alerting) facts(ctx context.Context) (alerts.Facts, error) {
	f := alerts.Facts{Now: a.now()}
	hour, err := a.p.rollups.Since(ctx, f.Now.Add(-alerts.RateWindow))
	if err != nil {
		return f, err
	}
	recent, err := a.p.rollups.Since(ctx, f.Now.Add(-alerts.SlowWindow))
	if err != nil {
		return f, err
	}
	if f.DeadLetters, err = a.p.letters.Counts(ctx); err != nil {
		return f, err
	}
	for _, e := range a.p.fleet.all() {
		declared := e.declared.Load()
		if declared == nil {
			continue
		}
		at := alerts.Endpoint{EndpointID: e.id, Timeout: declared.config.Timeout}
		stats := hour.Endpoint(e.id)
		at.Hour.Judged, at.Hour.Succeeded = stats.Judged(), stats.Succeeded
		stats = recent.Endpoint(e.id)
		at.Recent.Attempts, at.Recent.P95Ms = stats.Attempts, stats.P95Ms
		if g := e.currentGate(); tripped(g) {
			at.Breaker = g
		}
		a.mu.Lock()
		at.LastOpen = a.lastOpen[e.id]
		a.mu.Unlock()
		f.Endpoints = append(f.Endpoints, at)
	}
	return f, nil
}
