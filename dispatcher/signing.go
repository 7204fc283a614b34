package dispatcher

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"backstop/dispatcher/sign"
)

// Sign signs each attempt afresh, with all of the app's active secrets, which
// secrets returns newest first. An attempt that can't be signed is not made.
func Sign(secrets func(app string) []string) Stage {
	signer := sign.NewSigner()
	return func(next Handler) Handler {
		return func(ctx context.Context, c Call) Outcome {
			if c.Header == nil {
				c.Header = make(http.Header, maxHeaders)
			}
			w := headerWriter{c.Header, make([]string, 0, 4)}
			err := signer.Sign(w.set, c.Event.ID, time.Now(), c.Event.Payload, secrets(c.Endpoint.App))
			if err != nil {
				return Outcome{Verdict: Retry, Reason: ReasonLocal, Err: fmt.Errorf("can't sign a request to %s: %w", c.Endpoint.App, err)}
			}
			return next(ctx, c)
		}
	}
}
