package fallback

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"backstop/dispatcher"
	"backstop/streams"
)

// Any mix of apps and strategies answers before the deadline, and with the
// fallback's answer when one was there in its time.
func TestAnsweredBeforeTheDeadline(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := drawMix(rt)
		var err error
		synctest.Test(t, func(*testing.T) { // with a clock of its own
			err = m.answeredInTime()
			<-time.After(2 * time.Hour) // what was left behind ends
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
}

// mix is one call, what its app does, and what its strategies do.
type mix struct {
	whole      time.Duration
	app        pause
	outcome    dispatcher.Outcome // the app's, when it has the time
	strategies []behaviour
}

// pause takes some time, or less when it heeds a context that ends.
type pause struct {
	takes time.Duration
	heeds bool
}

type behaviour struct {
	pause
	answers bool
}

func drawMix(t *rapid.T) mix {
	m := mix{whole: time.Duration(rapid.Int64Range(1, 30_000).Draw(t, "whole ms")) * time.Millisecond}
	m.outcome = rapid.SampledFrom([]dispatcher.Outcome{
		down,
		{Verdict: dispatcher.Delivered, Data: []byte(`1`)},
		{Verdict: dispatcher.Delivered, Accepted: true},
		{Verdict: dispatcher.Rejected, Reason: dispatcher.ReasonRejected, AppError: &dispatcher.AppError{Code: "no"}},
		{Verdict: dispatcher.Retry, Reason: dispatcher.ReasonRejected, AppError: &dispatcher.AppError{Code: "busy", Retryable: true}},
		{Verdict: dispatcher.Refused, Reason: dispatcher.ReasonSaturated, Err: errors.New("full")},
	}).Draw(t, "outcome")
	m.app = drawPause(t, m.whole, "the app")
	for range rapid.IntRange(0, 8).Draw(t, "strategies") {
		m.strategies = append(m.strategies, behaviour{drawPause(t, m.whole, "a strategy"), rapid.Bool().Draw(t, "answers")})
	}
	return m
}

func drawPause(t *rapid.T, whole time.Duration, name string) pause {
	takes := rapid.OneOf(
		rapid.Just(time.Duration(0)),
		rapid.Map(rapid.Int64Range(0, int64(whole)), func(d int64) time.Duration { return time.Duration(d) }),
		rapid.Just(whole-whole/50), rapid.Just(whole), rapid.Just(time.Hour),
	).Draw(t, name+" takes")
	return pause{takes, rapid.Bool().Draw(t, name+" heeds its deadline")}
}

func (p pause) wait(ctx context.Context) error {
	if p.takes == 0 {
		return nil
	}
	if !p.heeds {
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case <-time.After(p.takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b behaviour) strategy(ctx context.Context, _ request) (answer, error) {
	if err := b.wait(ctx); err != nil || !b.answers {
		return answer{}, errors.Join(err, errors.New("gave up"))
	}
	return answer{source: streams.SourceDefault, data: []byte(`2`)}, nil
}

func (m mix) answeredInTime() error {
	var list []strategy
	atOnce := false // a strategy that answers at once is in the list
	for _, b := range m.strategies {
		list = append(list, b.strategy)
		atOnce = atOnce || b.answers && b.takes == 0
	}
	observed := 0
	stage, how := fakes(Config{Observe: func(dispatcher.Call, dispatcher.Outcome, dispatcher.Outcome) { observed++ }}, list...)
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), m.whole)
	defer cancel()
	out := stage(func(ctx context.Context, _ dispatcher.Call) dispatcher.Outcome {
		if err := m.app.wait(ctx); err != nil {
			return dispatcher.Outcome{Verdict: dispatcher.Retry, Reason: dispatcher.ReasonTimeout, Err: err}
		}
		return m.outcome
	})(ctx, callWith(`{}`, how...))

	fellBack := out.Source == streams.SourceDefault
	final := !fellBack && (out.Verdict == dispatcher.Delivered || out.AppError != nil && !out.AppError.Retryable)
	switch took := time.Since(start); {
	case took >= m.whole:
		return fmt.Errorf("answered after %v, which is not before the deadline of %v", took, m.whole)
	case out.Verdict == 0:
		return errors.New("no outcome at all")
	case final != (observed == 0) || observed > 1:
		return fmt.Errorf("%+v was observed %d times", out, observed)
	case atOnce && !final && !fellBack:
		return fmt.Errorf("a strategy that answers at once was not heard: %+v", out)
	default:
		return nil
	}
}
