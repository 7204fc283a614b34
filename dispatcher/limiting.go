package dispatcher

import (
	"context"
	"errors"

	"backstop/dispatcher/limit"
)

var (
	errSaturated   = errors.New("as many attempts are in flight to the endpoint as its concurrency allows")
	errRateLimited = errors.New("as many attempts were made to the endpoint as its rate limit allows")
)

// Limit refuses attempts above the endpoint's concurrency and rate, and lets
// its window learn from the outcome of the others.
func Limit(set *limit.Set) Stage {
	return func(next Handler) Handler {
		return func(ctx context.Context, c Call) Outcome {
			l := set.Get(c.Endpoint)
			done, reason, wait := l.Acquire(c.Sync)
			switch reason {
			case limit.None:
			case limit.Saturated:
				return Outcome{Verdict: Refused, Reason: ReasonSaturated, RetryAfter: wait, Err: errSaturated}
			case limit.RateLimited:
				return Outcome{Verdict: Refused, Reason: ReasonRateLimited, RetryAfter: wait, Err: errRateLimited}
			}
			result := limit.Ignored // also if next panics, which is not the app's doing
			defer func() { done(result) }()
			out := next(ctx, c)
			result = learnt(out)
			return out
		}
	}
}

// learnt is what an outcome tells the window.
func learnt(out Outcome) limit.Result {
	switch {
	case out.PauseEndpoint:
		return limit.PushBack
	case out.Effect == Success:
		return limit.Success
	case out.Effect == Failure:
		return limit.Failure
	default:
		return limit.Ignored
	}
}
