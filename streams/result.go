package streams

import (
	"fmt"

	"github.com/nats-io/nats.go"
)

// ResultKind says what a result is.
type ResultKind string

// The kinds of result.
const (
	ResultCallback ResultKind = "callback" // what the app sent to its callback URL
	ResultApproved ResultKind = "approved" // a person approved a call that was waiting
	ResultRejected ResultKind = "rejected" // a person rejected it
)

// Result is what became of an event or call later: the app's own result, by
// its callback, or a person's decision.
type Result struct {
	// ID is the event's or call's, which the app saw as X-Request-ID.
	ID string
	EndpointID
	// Kind is one of the constants above.
	Kind ResultKind
	// Origin names the accepted publish, or the call, that this is the result
	// of: of one origin there is one result of each kind, however often it is
	// published within two days. Empty: nothing is de-duplicated.
	Origin string
	// Payload is the result itself, byte for byte as it came.
	Payload []byte
}

// Msg returns the message that publishes the result on results.<capability>.<app>.
func (r Result) Msg() *nats.Msg {
	msg := nats.NewMsg(r.Subject(Results))
	msg.Data = r.Payload
	msg.Header.Set(HeaderID, r.ID)
	msg.Header.Set(HeaderApp, r.App)
	msg.Header.Set(HeaderCapability, r.Capability)
	msg.Header.Set(HeaderResult, string(r.Kind))
	if r.Origin != "" {
		msg.Header.Set(HeaderOrigin, r.Origin)
		msg.Header.Set(HeaderMsgID, string(r.Kind)+":"+r.Capability+":"+r.App+":"+r.Origin)
	}
	return msg
}

// DecodeResult reads a result from a message of the RESULTS stream.
func DecodeResult(subject string, h nats.Header, data []byte) (Result, error) {
	kind, id, err := ParseSubject(subject)
	if err != nil {
		return Result{}, err
	}
	if kind != Results || id.App == "" {
		return Result{}, fmt.Errorf("a message on %s is not a result", subject)
	}
	return Result{
		ID: h.Get(HeaderID), EndpointID: id, Kind: ResultKind(h.Get(HeaderResult)), Origin: h.Get(HeaderOrigin), Payload: data,
	}, nil
}
