package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// callBudget bounds a Call whose context has no deadline. It is what a person
// waits for at most, and the longest that a call's webhook may take.
const callBudget = 10 * time.Second

// maxPatience is the most that a call tells Backstop of its deadline; no call
// takes so long.
const maxPatience = time.Hour

// SourceLocal is the source of an answer that the caller's own process gave,
// in WithLocalFallback. It never comes over the wire.
const SourceLocal Source = "local"

// The reasons of an answer from SourceLocal.
const (
	LocalNoBackstop = "no_backstop" // no replica runs
	LocalConnection = "connection"  // the connection to NATS is lost
	LocalTimeout    = "timeout"     // no reply came in time
)

// LocalFallback answers a call that got no reply; err says why. Its answer is
// the reply's data, with SourceLocal. An error of its own is added to the
// call's.
//
// Somebody has waited long enough when it is asked, so it should answer without
// asking anybody else. Its ctx has the values of the call's, and its deadline
// unless that is over.
type LocalFallback func(ctx context.Context, err error) (json.RawMessage, error)

// Caller makes calls: it asks an app something through Backstop, which answers
// before the deadline with the app's answer, a fallback's, or an error. It is
// safe for concurrent use, by thousands at once.
type Caller struct {
	nc       *nats.Conn
	fallback LocalFallback
}

// CallerOption changes what NewCaller returns.
type CallerOption func(*Caller)

// WithLocalFallback has f answer where Backstop can't: when no replica runs,
// the connection to NATS is lost, or no reply comes in time. It is not asked
// when there is a reply that says no, nor when the caller cancelled the call.
func WithLocalFallback(f LocalFallback) CallerOption {
	return func(c *Caller) { c.fallback = f }
}

// NewCaller returns a Caller over a connection to Backstop's NATS.
func NewCaller(nc *nats.Conn, opts ...CallerOption) *Caller {
	c := &Caller{nc: nc}
	for _, o := range opts {
		o(c)
	}
	return c
}

// Call asks an app and waits for the reply, until ctx's deadline, or for 10 s
// if it has none. Backstop is told how long that is, and answers before it. The
// payload is JSON, at most MaxPayload. An empty id makes one; the app sees it
// as X-Request-ID.
//
// The error is nil when there is an answer, whoever gave it: look at
// Reply.Source. It is a *CallError when the reply says that there is none, and
// otherwise one of ErrNoBackstop, ErrUnavailable, ErrTooLarge, ErrBadReply,
// context.DeadlineExceeded, context.Canceled, or says which name or id is
// wrong. After ErrUnavailable and the errors of context the app may have been
// asked; to ask again, use the same id, which is Reply.RequestID in any case.
//
// A connection that is being made anew is not waited for: the error is
// ErrUnavailable at once, also for the calls that were under way.
func (c *Caller) Call(ctx context.Context, to EndpointID, id string, payload []byte, opts ...MsgOption) (Reply, error) {
	start := time.Now()
	msg, err := callMsg(to, id, payload, opts)
	if err != nil {
		return Reply{}, fmt.Errorf("call %s: %w", to, err)
	}
	id = msg.Header.Get(HeaderMsgID)
	answer, err := c.request(ctx, msg)
	if err != nil {
		reply, err := c.answerLocally(ctx, requestError(err))
		reply.RequestID, reply.DurationMs = id, time.Since(start).Milliseconds()
		if err != nil {
			err = fmt.Errorf("call %s: %w", to, err)
		}
		return reply, err
	}
	reply, err := readReply(answer.Data)
	if reply.RequestID == "" {
		reply.RequestID = id
	}
	if err != nil {
		err = fmt.Errorf("call %s: %w", to, err)
	}
	return reply, err
}

// request sends msg with what remains of the deadline, and returns what came back.
func (c *Caller) request(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := withBudget(ctx, callBudget)
	defer cancel()
	ctx, release := untilLost(ctx, c.nc)
	defer release()
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case left < time.Millisecond: // which is "none" in the header
		return nil, context.DeadlineExceeded
	case !c.nc.IsConnected(): // nats.go would keep the request for a connection to come
		return nil, nats.ErrDisconnected
	}
	msg.Header.Set(HeaderTimeoutMs, strconv.FormatInt(min(left, maxPatience).Milliseconds(), 10))
	answer, err := c.nc.RequestMsgWithContext(ctx, msg)
	if err != nil && errors.Is(context.Cause(ctx), nats.ErrDisconnected) {
		return nil, nats.ErrDisconnected
	}
	return answer, err
}

// untilLost returns a context that ends with nats.ErrDisconnected as its cause
// when the connection is lost: nats.go itself lets a request wait for its
// deadline then, though its reply went where nobody listens any more.
func untilLost(ctx context.Context, nc *nats.Conn) (lasting context.Context, release func()) {
	lasting, cancel := context.WithCancelCause(ctx)
	lost := nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, open := <-lost; open { // RemoveStatusListener closes it
			cancel(nats.ErrDisconnected)
		}
	}()
	return lasting, func() {
		nc.RemoveStatusListener(lost)
		<-done
		cancel(nil)
	}
}

// answerLocally turns the error of a call without a reply into an answer, if
// there is a fallback for it.
func (c *Caller) answerLocally(ctx context.Context, err error) (Reply, error) {
	reason := localReason(err)
	if c.fallback == nil || reason == "" {
		return Reply{Source: SourceNone}, err
	}
	if ctx.Err() != nil {
		ctx = context.WithoutCancel(ctx)
	}
	data, failed := c.fallback(ctx, err)
	if failed != nil {
		return Reply{Source: SourceNone}, fmt.Errorf("%w; the local fallback: %w", err, failed)
	}
	return Reply{Success: true, Data: data, Source: SourceLocal, Reason: reason}, nil
}

// localReason says why a local fallback is to answer, and nothing for errors
// that it can't stand in for.
func localReason(err error) string {
	switch {
	case errors.Is(err, ErrNoBackstop):
		return LocalNoBackstop
	case errors.Is(err, ErrUnavailable):
		return LocalConnection
	case errors.Is(err, context.DeadlineExceeded):
		return LocalTimeout
	default:
		return ""
	}
}

// readReply reads what Backstop sent: an answer, or a *CallError.
func readReply(data []byte) (Reply, error) {
	var reply Reply
	if err := json.Unmarshal(data, &reply); err != nil {
		return Reply{}, fmt.Errorf("%w: its %d bytes are not the JSON of one: %w", ErrBadReply, len(data), err)
	}
	switch e := reply.Error; {
	case reply.Source == "", reply.Success == (e != nil):
		return Reply{}, fmt.Errorf("%w: it has no source, or not one of an answer and an error", ErrBadReply)
	case e != nil:
		return reply, &CallError{Code: e.Code, Message: e.Message, Source: reply.Source, Reason: reply.Reason, RequestID: reply.RequestID}
	default:
		return reply, nil
	}
}

// callMsg returns the message of a call, all but its deadline.
func callMsg(to EndpointID, id string, payload []byte, opts []MsgOption) (*nats.Msg, error) {
	if err := CheckName("capability", to.Capability); err != nil {
		return nil, err
	}
	if err := CheckName("app", to.App); err != nil {
		return nil, err
	}
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: %d bytes, at most %d KiB of JSON", ErrTooLarge, len(payload), MaxPayload>>10)
	}
	return newMsg(Calls, to, id, payload, opts)
}
