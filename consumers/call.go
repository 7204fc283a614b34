package consumers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"backstop/dispatcher"
	"backstop/streams"
	"backstop/streams/manifest"
)

// incoming is a call as it came.
type incoming struct {
	received       time.Time
	subject, reply string
	header         nats.Header
	payload        []byte
	id             string // X-Request-ID
	// orphan tells that another replica took it and fell silent. The app may
	// have been asked, so it is not asked again; see standby.
	orphan bool
}

func incomingCall(subject, reply string, header nats.Header, payload []byte, received time.Time) incoming {
	return incoming{
		received: received, subject: subject, reply: reply, header: header, payload: payload,
		id: callID(header.Get(streams.HeaderMsgID)),
	}
}

// call answers one call: it finds the endpoint, works out how long there is,
// and runs the chain, which ends with a fallback when the app can't answer.
func (p *Pipeline) call(c incoming) (streams.EndpointID, streams.Reply) {
	_, id, err := streams.ParseSubject(c.subject)
	if err != nil || id.App == "" {
		return streams.EndpointID{}, failure(dispatcher.ReasonNoRoute, streams.CodeNoRoute,
			"a call goes to calls.<capability>.<app>, and "+strconv.Quote(c.subject)+" is not that")
	}
	if err := streams.CheckPayload(c.payload); err != nil {
		code := streams.CodeBadPayload
		if len(c.payload) > streams.MaxPayload {
			code = streams.CodePayloadTooLarge
		}
		return id, failure(dispatcher.ReasonBadPayload, code, err.Error())
	}
	patience, err := parsePatience(c.header)
	if err != nil {
		return id, failure(dispatcher.ReasonBadPayload, streams.CodeBadTimeout, err.Error())
	}
	e := p.find(id, c.received.Add(min(patience, routePatience)))
	if e == nil {
		return id, failure(dispatcher.ReasonNoRoute, streams.CodeNoRoute, p.noRoute(streams.Event{EndpointID: id}, false))
	}
	config := e.declared.Load().config
	if config.Async {
		return id, failure(dispatcher.ReasonNoRoute, streams.CodeNotACall,
			fmt.Sprintf("the webhook of %s for %s takes events only (\"async\": true); publish to events.%s.%s", id.App, id.Capability, id.Capability, id.App))
	}
	timeout := min(config.Timeout, patience)
	left := wayBack(timeout)
	if c.orphan {
		left /= 4 // it may have begun late
	}
	ctx, cancel := context.WithDeadline(p.work, c.received.Add(timeout-left))
	defer cancel()
	if ctx.Err() != nil {
		return id, failure(dispatcher.ReasonTimeout, streams.CodeDeadlineExceeded,
			fmt.Sprintf("%s leaves no time to ask anybody", streams.HeaderTimeoutMs))
	}
	return id, replyOf(p.ask(ctx, e, config, c))
}

// timeout returns how long there is for a call, as far as this replica knows.
func (p *Pipeline) timeout(c incoming) time.Duration {
	patience, err := parsePatience(c.header)
	if err != nil {
		patience = 0
	}
	if _, id, err := streams.ParseSubject(c.subject); err == nil {
		if e := p.fleet.declared(id); e != nil {
			return min(e.declared.Load().config.Timeout, patience)
		}
	}
	return min(routePatience, patience)
}

// ask makes the call.
func (p *Pipeline) ask(ctx context.Context, e *endpoint, config manifest.Endpoint, c incoming) dispatcher.Outcome {
	refuse := e.refuses(time.Now())
	if c.orphan {
		refuse = dispatcher.ReasonLocal
	}
	if d := e.declared.Load(); refuse == "" && d != nil {
		if done, may := p.probes.try(ctx, e, d.breaker); may {
			defer done()
		} else {
			refuse = dispatcher.ReasonCircuitOpen
		}
	}
	parent, state := streams.TraceOf(c.header)
	return p.answer(ctx, dispatcher.Call{
		Event: streams.Event{
			ID: c.id, Origin: streams.OriginCall + nuid.Next(), EndpointID: e.id, Payload: c.payload, PublishedAt: c.received,
			TraceParent: parent, TraceState: state,
		},
		Endpoint: config, Attempt: 1, Sync: true, Refuse: refuse,
	})
}

// learning is the stage between the app's answer and the fallback: it makes
// known what the answer says about the endpoint.
func (p *Pipeline) learning(next dispatcher.Handler) dispatcher.Handler {
	return func(ctx context.Context, c dispatcher.Call) dispatcher.Outcome {
		out := next(ctx, c)
		e := p.fleet.get(c.Endpoint.EndpointID)
		p.notify(e, out)
		if out.Gone {
			p.aside(func() { p.disable(e) }) // writes to the bucket; the caller waits for nothing
		}
		if out.PauseEndpoint {
			e.pause(time.Now().Add(delay(c.Endpoint.Retry, 1, out.RetryAfter)))
		}
		return out
	}
}

// callID returns the call's id: the caller's, a hash of one that is outside
// the alphabet, or a new one.
func callID(given string) string {
	if given == "" {
		return nuid.Next()
	}
	return streams.IDOf(given)
}

// forever is the patience of a caller that doesn't say: the webhook's timeout
// decides. It is also the most that is believed of one that does.
const forever = time.Hour

// parsePatience reads how long the caller waits. Zero and less mean that it
// doesn't any more. The error says that it is not a number.
func parsePatience(h nats.Header) (time.Duration, error) {
	given := strings.TrimSpace(h.Get(streams.HeaderTimeoutMs))
	if given == "" {
		return forever, nil
	}
	ms, err := strconv.ParseInt(given, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange) && given[0] == '-':
		return 0, nil
	case errors.Is(err, strconv.ErrRange):
		return forever, nil
	case err != nil:
		return 0, fmt.Errorf("%s is %.40q; it has to be whole milliseconds, such as 1500", streams.HeaderTimeoutMs, given)
	}
	return time.Duration(min(max(ms, 0), forever.Milliseconds())) * time.Millisecond, nil
}

// What is kept of a call's time for the reply's way back: NATS takes well
// below a millisecond, a busy machine some more until a goroutine runs.
const (
	leastWayBack = 2 * time.Millisecond
	mostWayBack  = 80 * time.Millisecond
)

func wayBack(timeout time.Duration) time.Duration {
	return min(max(timeout/25, leastWayBack), mostWayBack)
}

// replyOf turns an outcome into the reply, but for what the responder knows.
func replyOf(out dispatcher.Outcome) streams.Reply {
	switch {
	case out.Verdict == dispatcher.Delivered:
		r := streams.Reply{Success: true, Data: out.Data, Source: out.Source, Reason: string(out.Reason.ForCaller())}
		switch {
		case r.Source == "" && out.Accepted:
			r.Source = streams.SourcePending
		case r.Source == "":
			r.Source = streams.SourceApp
		case r.Source == streams.SourceCache:
			age := out.Age.Milliseconds()
			r.AgeMs = &age
		}
		return r
	case out.AppError != nil && out.Verdict == dispatcher.Rejected:
		return streams.Reply{Error: &streams.ReplyError{Code: out.AppError.Code, Message: out.AppError.Message}, Source: streams.SourceApp}
	default:
		code, message := explainFailure(out.Reason)
		return failure(out.Reason, code, message)
	}
}

// failure is the reply of a call that nobody could answer.
func failure(reason dispatcher.Reason, code, message string) streams.Reply {
	return streams.Reply{Error: &streams.ReplyError{Code: code, Message: message}, Source: streams.SourceNone, Reason: string(reason.ForCaller())}
}

// explainFailure returns the code and a message, fit for a person, for a call
// that neither the app nor a fallback answered. What the app said or how its
// host is called is for the delivery log, and not for whoever plays a quiz.
func explainFailure(reason dispatcher.Reason) (code, message string) {
	switch reason {
	case dispatcher.ReasonSaturated, dispatcher.ReasonRateLimited:
		return streams.CodeAppBusy, "the app has as many requests as it takes; try again in a moment"
	case dispatcher.ReasonDisabled:
		return streams.CodeEndpointDisabled, "the app has switched this off for now"
	case dispatcher.ReasonTimeout:
		return streams.CodeAppUnavailable, "the app did not answer in time"
	case dispatcher.ReasonCircuitOpen:
		return streams.CodeAppUnavailable, "the app is not answering at the moment"
	case dispatcher.ReasonBlockedAddress:
		return streams.CodeAppUnavailable, "the app's address may not be reached; an operator has to look at its manifest"
	case dispatcher.ReasonBadResponse:
		return streams.CodeAppUnavailable, "the app's answer can't be used"
	case dispatcher.ReasonLocal:
		return streams.CodeInternal, "Backstop could not reach the app"
	case dispatcher.ReasonConnection, dispatcher.ReasonStatus, dispatcher.ReasonRejected,
		dispatcher.ReasonNoRoute, dispatcher.ReasonBadPayload:
	}
	return streams.CodeAppUnavailable, "the app could not answer"
}
