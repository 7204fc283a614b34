package dispatcher

import (
	"context"
	"crypto/rand"
	"strings"
	"time"

	"backstop/dispatcher/callback"
)

const headerCallbackURL = "X-Callback-Url"

// Callback tells the app where it may send its result later, in X-Callback-URL:
// a URL under publicBase (no query, with or without a slash at its end) whose
// token permits to answer this event or call. Whoever has it may, so it goes
// into no log.
//
// Each attempt has a token with its own expiry; all attempts of an event are
// the same permission. A call has no origin, and each gets one of its own here.
func Callback(issuer *callback.Issuer, publicBase string) Stage {
	base := strings.TrimRight(publicBase, "/") + "/callbacks/"
	return func(next Handler) Handler {
		return func(ctx context.Context, c Call) Outcome {
			g := callback.Grant{
				ID: c.Event.ID, Origin: c.Event.Origin, Capability: c.Endpoint.Capability, App: c.Endpoint.App,
				Awaited: c.Endpoint.Callback.Demanded() && !c.Sync,
			}
			if g.Origin == "" {
				g.Origin = rand.Text()
			}
			var room [512]byte // on the stack
			if url, ok := issuer.Append(append(room[:0], base...), g, time.Now()); ok {
				c.SetHeader(headerCallbackURL, string(url))
			}
			return next(ctx, c)
		}
	}
}
