package fallback

import (
	"context"
	"log/slog"

	"github.com/nats-io/nats.go"

	"backstop/dispatcher"
	"backstop/streams"
)

// Config says what the strategies work with. In the zero Config those that
// need something give up, and the local handlers (reject, accept, static,
// random-selection) work.
type Config struct {
	// NATS is where the handler service makes its requests. Nil: it gives up.
	NATS *nats.Conn
	// Cache is what the strategy cached answers from, and what good answers
	// of apps fill. Nil: it gives up, and nothing is kept.
	Cache *Cache
	// Queue stores an event, and returns nil once it is stored. The event has
	// the call's id and endpoint; it has to reach the app although the webhook
	// takes calls. Nil: the strategy queue gives up.
	Queue func(context.Context, streams.Event) error
	// Pendings is where the strategy pending keeps requests. Nil: it gives up.
	Pendings *streams.Pendings
	// Observe is told of each call that the app didn't answer: the app's
	// outcome, and the fallback's, whose Err (there alone) says why the
	// strategies before it gave up. When nothing answered, answer is zero but
	// for Err, and its Source empty. It is called before the caller has its
	// reply and has to return at once. Defaults to nobody.
	Observe func(c dispatcher.Call, app, answer dispatcher.Outcome)
	// Tried is told of each strategy that was asked, by its name in a manifest,
	// and with why it gave up (nil: it answered). It has to return at once.
	// Defaults to nobody.
	Tried func(id streams.EndpointID, strategy string, err error)
	// Log hears why strategies gave up, at level debug. Defaults to no log.
	Log *slog.Logger
}

func (c *Config) setDefaults() {
	if c.Observe == nil {
		c.Observe = func(dispatcher.Call, dispatcher.Outcome, dispatcher.Outcome) {}
	}
	if c.Tried == nil {
		c.Tried = func(streams.EndpointID, string, error) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}
