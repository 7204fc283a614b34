package fallback

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"backstop/dispatcher"
	"backstop/streams"
	"backstop/streams/manifest"
)

// Stage answers calls in the app's place when the app doesn't, by the
// strategies of the endpoint's list, in their order. Events pass through it
// untouched.
//
// An app's good answer passes on, a 202 with SourcePending and the same data as
// a pending request; so does its "no", unless that is retryable or its code is
// in the endpoint's FallbackOn. After anything else the first strategy that
// answers makes the outcome: Delivered, with Source, Data and, where they
// apply, Age and Audit, and as Reason why it isn't the app's; see ReplyReason.
// When none does, the app's outcome passes on as it is.
//
// It returns before the deadline of its context, or without one before the
// endpoint's timeout, whatever the app's handler and the strategies do.
func Stage(cfg Config) dispatcher.Stage {
	cfg.setDefaults()
	return newStage(cfg, strategies(cfg))
}

// request is what a strategy is asked for.
type request struct {
	call   dispatcher.Call
	how    manifest.Strategy
	reason dispatcher.Reason // why the app doesn't answer
}

// answer is what a strategy answers.
type answer struct {
	source streams.Source
	data   []byte
	age    time.Duration
	audit  map[string]any
}

// strategy answers a request, or gives up with an error that says why and
// shows nothing of the payload. It has until the deadline of ctx.
type strategy func(ctx context.Context, r request) (answer, error)

// strategies returns the contract's strategies by their names in a manifest.
func strategies(cfg Config) map[string]strategy {
	return map[string]strategy{
		manifest.StrategyDefault: byHandler(handlers(cfg)),
		manifest.StrategyCached:  cached(cfg.Cache),
		manifest.StrategyQueue:   queue(cfg.Queue),
		manifest.StrategyPending: pending(cfg.Pendings),
	}
}

// stage is Stage with the strategies that it has.
type stage struct {
	Config
	strategies map[string]strategy
}

func newStage(cfg Config, strategies map[string]strategy) dispatcher.Stage {
	s := stage{cfg, strategies}
	return func(next dispatcher.Handler) dispatcher.Handler {
		return func(ctx context.Context, c dispatcher.Call) dispatcher.Outcome {
			if !c.Sync {
				return next(ctx, c)
			}
			return s.handle(ctx, c, next)
		}
	}
}

func (s stage) handle(ctx context.Context, c dispatcher.Call, next dispatcher.Handler) dispatcher.Outcome {
	b := divide(ctx, c, time.Now())
	app := ask(ctx, c, next, b)
	switch {
	case app.Accepted:
		app.Source, app.Data = streams.SourcePending, status(c.Event.ID, streams.SourcePending)
		return app
	case app.Verdict == dispatcher.Delivered:
		s.Cache.keep(c, app.Data)
		return app
	case finalNo(c, app):
		return app
	}
	out, err := s.fallBack(ctx, c, app, b.end)
	told := out
	told.Err = err
	s.Observe(c, app, told)
	if out.Source == "" {
		return app
	}
	return out
}

// ask gives the call to the app's handler, and leaves that behind when it
// takes longer than it was told it may.
func ask(ctx context.Context, c dispatcher.Call, next dispatcher.Handler, b budget) dispatcher.Outcome {
	ctx, cancel := context.WithDeadline(ctx, b.app)
	defer cancel()
	start := time.Now()
	out, ok := within(b.cut.Sub(start), func() dispatcher.Outcome { return next(ctx, c) })
	if !ok {
		return dispatcher.Outcome{
			Verdict: dispatcher.Retry, Effect: dispatcher.Failure, Reason: dispatcher.ReasonTimeout, Requested: true,
			Err: fmt.Errorf("no answer within %v", time.Since(start).Round(time.Millisecond)),
		}
	}
	return out
}

// finalNo tells whether the app said no, and its caller is to hear it.
func finalNo(c dispatcher.Call, app dispatcher.Outcome) bool {
	return app.AppError != nil && app.Verdict == dispatcher.Rejected && !slices.Contains(c.Endpoint.FallbackOn, app.AppError.Code)
}

// fallBack returns the first answer of the endpoint's list, or the zero
// Outcome. The error says why strategies gave up; nil when none did.
func (s stage) fallBack(ctx context.Context, c dispatcher.Call, app dispatcher.Outcome, end time.Time) (dispatcher.Outcome, error) {
	r := request{call: c, reason: ReplyReason(app)}
	var gaveUp []error
	for i := range c.Endpoint.Fallback {
		list := c.Endpoint.Fallback[i:]
		r.how = list[0]
		a, err := s.try(ctx, r, share(time.Until(end), list, len(c.Event.Payload)))
		s.Tried(c.Endpoint.EndpointID, r.how.Strategy, err)
		if err == nil {
			return dispatcher.Outcome{
				Verdict: dispatcher.Delivered, Source: a.source, Data: a.data, Age: a.age, Audit: a.audit, Reason: r.reason,
			}, errors.Join(gaveUp...)
		}
		gaveUp = append(gaveUp, fmt.Errorf("%s: %w", name(r.how), err))
		s.Log.Debug("a fallback gave up", "endpoint", c.Endpoint.String(), "id", c.Event.ID, "fallback", name(r.how), "error", err)
	}
	return dispatcher.Outcome{}, errors.Join(gaveUp...)
}

var errNoTime = errors.New("there was not enough time left for it")

// try asks one strategy, and leaves it behind at the end of its share. Those
// that take no time are asked even when none is left.
func (s stage) try(ctx context.Context, r request, share time.Duration) (answer, error) {
	ask, ok := s.strategies[r.how.Strategy]
	if !ok {
		return answer{}, errors.New("there is no such strategy")
	}
	if instant(r.how) {
		return ask(ctx, r)
	}
	if share <= 0 {
		return answer{}, errNoTime
	}
	ctx, cancel := context.WithTimeout(ctx, share)
	defer cancel()
	type result struct {
		answer answer
		err    error
	}
	got, ok := within(share, func() result {
		a, err := ask(ctx, r)
		return result{a, err}
	})
	if !ok {
		return answer{}, fmt.Errorf("%w: it had %v", errNoTime, share.Round(time.Millisecond))
	}
	return got.answer, got.err
}

// instant tells whether a strategy is a mere value.
func instant(s manifest.Strategy) bool {
	switch s.Handler {
	case manifest.HandlerReject, manifest.HandlerAccept, manifest.HandlerStatic:
		return s.Strategy == manifest.StrategyDefault
	default:
		return false
	}
}

// name is how a strategy is called in logs: "cached", "default/reject".
func name(s manifest.Strategy) string {
	if s.Handler == "" {
		return s.Strategy
	}
	return s.Strategy + "/" + s.Handler
}

// ReplyReason returns why the app's answer wasn't used, in the words that the
// contract has for it: a fault on our own side is, for the caller, a
// connection that could not be made. Empty when the app answered well.
func ReplyReason(app dispatcher.Outcome) dispatcher.Reason {
	if app.AppError != nil {
		return dispatcher.ReasonRejected
	}
	return app.Reason.ForCaller()
}
