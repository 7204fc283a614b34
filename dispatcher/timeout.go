package dispatcher

import "context"

// Timeout puts one deadline over everything below: the endpoint's timeout from
// now, or that of whoever waits when it is nearer.
func Timeout() Stage {
	return func(next Handler) Handler {
		return func(ctx context.Context, c Call) Outcome {
			ctx, cancel := context.WithTimeout(ctx, c.Endpoint.Timeout)
			defer cancel()
			return next(ctx, c)
		}
	}
}
