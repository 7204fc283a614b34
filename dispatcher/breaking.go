package dispatcher

import (
	"context"
	"time"

	"backstop/dispatcher/breaker"
)

// Breaker refuses attempts while the endpoint's circuit is open, and lets the
// circuit learn from the outcome of the others.
func Breaker(set *breaker.Set) Stage {
	return func(next Handler) Handler {
		return func(ctx context.Context, c Call) Outcome {
			b := set.Get(c.Endpoint.EndpointID, c.Endpoint.Breaker)
			done, err := b.Allow()
			if err != nil {
				return circuitOpen(b, err)
			}
			result := breaker.Ignored // also if next panics, which is not the app's doing
			defer func() { done(result) }()
			out := next(ctx, c)
			switch out.Effect {
			case Success:
				result = breaker.Success
			case Failure:
				result = breaker.Failure
			case NotCounted:
			}
			return out
		}
	}
}

func circuitOpen(b *breaker.Breaker, err error) Outcome {
	out := Outcome{Verdict: Refused, Reason: ReasonCircuitOpen, Err: err}
	if _, until := b.State(); !until.IsZero() {
		out.RetryAfter = max(time.Until(until), 0)
	}
	return out
}
