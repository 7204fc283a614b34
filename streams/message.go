package streams

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// MsgOption changes the message of one event or one call.
type MsgOption func(*nats.Msg)

// WithTrace sets the W3C trace context, which is passed on to the app. An
// empty parent sets nothing, and an empty state no state.
func WithTrace(parent, state string) MsgOption {
	return func(msg *nats.Msg) {
		if parent == "" {
			return
		}
		msg.Header.Set(HeaderTraceParent, parent)
		if state != "" {
			msg.Header.Set(HeaderTraceState, state)
		}
	}
}

// newMsg returns the message of an event or a call, once its id can be one. An
// empty id makes one.
func newMsg(kind Kind, to EndpointID, id string, payload []byte, opts []MsgOption) (*nats.Msg, error) {
	if id == "" {
		id = nuid.Next()
	}
	if err := CheckID(id); err != nil {
		return nil, err
	}
	msg := nats.NewMsg(to.Subject(kind))
	msg.Data = payload
	msg.Header.Set(HeaderMsgID, id)
	for _, o := range opts {
		o(msg)
	}
	return msg, nil
}

// withBudget gives ctx a deadline if it has none.
func withBudget(ctx context.Context, budget time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, budget)
}
