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
			release, reason, wait := l.Acquire(c.Sync)
			switch reason {
			case limit.None:
			case limit.Saturated:
				return Outcome{Verdict: Refused, Reason: ReasonSaturated, RetryAfter: wait, Err: errSaturated}
			case limit.RateLimited:
				return Outcome{Verdict: Refused, Reason: ReasonRateLimited, RetryAfter: wait, Err: errRateLimited}
			}
			defer release()
			out := next(ctx, c)
			if out.Effect != NotCounted {
				l.Observe(out.Effect == Success)
			}
			return out
		}
	}
}
