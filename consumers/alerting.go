package consumers

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"backstop/consumers/alerts"
	"backstop/consumers/rollup"
	"backstop/streams"
)

const (
	// alertEvery is how often the rules are evaluated, beside at once when a
	// breaker opens, unless that takes more than an alertShare of the time.
	alertEvery = 10 * time.Second
	alertShare = 50
)

// alerting raises and clears alerts. One replica does it, by the alerts bucket,
// so that a restart or another replica doesn't raise again what is raised.
//
// An alert is recorded, then announced, then recorded as announced; a crash in
// between announces it again, which de-duplication in NOTICES absorbs.
type alerting struct {
	p      *Pipeline
	kept   *streams.Alerts
	every  time.Duration
	sooner chan struct{} // one token when a breaker opened
	active atomic.Int64
}

func newAlerting(p *Pipeline, kept *streams.Alerts) *alerting {
	a := &alerting{p: p, kept: kept, every: alertEvery, sooner: make(chan struct{}, 1)}
	if p.cfg.AlertEvery > 0 {
		a.every = p.cfg.AlertEvery
	}
	return a
}

// soon makes the next evaluation come at once.
func (a *alerting) soon() {
	select {
	case a.sooner <- struct{}{}:
	default:
	}
}

// run evaluates until ctx ends.
func (a *alerting) run(ctx context.Context) {
	defer a.active.Store(0)
	for ctx.Err() == nil {
		start := time.Now()
		if err := a.evaluate(ctx); err != nil && ctx.Err() == nil {
			a.p.log.Warn("can't evaluate alerts, trying again", "error", err)
			sleep(ctx, time.Second)
			continue
		}
		t := time.NewTimer(max(a.every, alertShare*time.Since(start)))
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
		if err := a.change(ctx, alert, a.kept.Raise); err != nil {
			return err
		}
	}
	for _, alert := range changes.Clear {
		if err := a.change(ctx, alert, a.kept.Clear); err != nil {
			return err
		}
	}
	a.active.Store(int64(len(raised) + len(changes.Raise) - len(changes.Clear)))
	return nil
}

// change records the alert and announces it, unless another replica did.
func (a *alerting) change(ctx context.Context, alert streams.Alert, record func(context.Context, streams.Alert) (bool, error)) error {
	recorded, err := record(ctx, alert)
	if !recorded || err != nil {
		return err
	}
	log := a.p.log.With("alert", alert.AlertKey.String(), "message", alert.Message)
	if alert.Active() {
		log.Warn("alert raised")
	} else {
		log.Info("alert cleared")
	}
	return a.announce(ctx, alert)
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
	publish, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err := a.p.js.PublishMsg(publish, msg); err != nil {
		return fmt.Errorf("publish the notice of the alert %s: %w", alert.AlertKey, err)
	}
	return a.kept.Announce(ctx, alert)
}

// facts gathers what the rules look at.
func (a *alerting) facts(ctx context.Context) (alerts.Facts, error) {
	f := alerts.Facts{Now: a.p.cfg.Now()}
	err := a.p.rollups.view(ctx, func(w *rollup.Window) {
		for _, e := range a.p.fleet.all() {
			if d := e.declared.Load(); d != nil {
				f.Endpoints = append(f.Endpoints, endpointFacts(e, d.config.Timeout, w, f.Now))
			}
		}
	})
	if err != nil {
		return f, err
	}
	f.DeadLetters, f.DeadLettersAt, err = a.p.letters.Counts(ctx)
	return f, err
}

func endpointFacts(e *endpoint, timeout time.Duration, w *rollup.Window, now time.Time) alerts.Endpoint {
	at := alerts.Endpoint{EndpointID: e.id, Timeout: timeout}
	at.Breaker, at.LastOpen = e.tripped()
	hour := w.Counts(e.id, now.Add(-alerts.RateWindow))
	at.Hour.Judged, at.Hour.Succeeded = hour.Judged(), hour.Succeeded
	if hour.Attempts >= alerts.FewAttempts { // a percentile costs more than a count
		recent := w.Endpoint(e.id, now.Add(-alerts.SlowWindow))
		at.Recent.Attempts, at.Recent.P95Ms = recent.Attempts, recent.P95Ms
	}
	return at
}
