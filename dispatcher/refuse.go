package dispatcher

import (
	"context"
	"errors"
)

var (
	errDisabled = errors.New("the endpoint is disabled")
	errPaused   = errors.New("the app has asked to be left alone for a while")
	errOpen     = errors.New("the circuit is open, or another replica tries whether it may close")
	errTaken    = errors.New("the replica that had the call is gone, and may have asked the app")
)

// Refuse makes no request where the call says that none may be made: whoever
// keeps the endpoint's state knows what the stages below can't.
func Refuse() Stage {
	return func(next Handler) Handler {
		return func(ctx context.Context, c Call) Outcome {
			switch c.Refuse {
			case "":
				return next(ctx, c)
			case ReasonDisabled:
				return Outcome{Verdict: Refused, Reason: c.Refuse, Err: errDisabled}
			case ReasonCircuitOpen:
				return Outcome{Verdict: Refused, Reason: c.Refuse, Err: errOpen}
			case ReasonLocal:
				return Outcome{Verdict: Refused, Reason: c.Refuse, Err: errTaken}
			default:
				return Outcome{Verdict: Refused, Reason: c.Refuse, Err: errPaused}
			}
		}
	}
}
