package streams

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// DeadLetterReason is why an event will not be tried again until somebody decides.
type DeadLetterReason string

// The reasons of the contract's section 4.
const (
	Exhausted        DeadLetterReason = "exhausted"         // every attempt failed
	RejectedByApp    DeadLetterReason = "rejected"          // an answer that must not be tried again
	Expired          DeadLetterReason = "expired"           // older than the endpoint's maxAge
	EndpointDisabled DeadLetterReason = "endpoint_disabled" // the app answered 410, or an operator disabled it
	NoRoute          DeadLetterReason = "no_route"          // no such app, or not an async webhook
	BadPayload       DeadLetterReason = "bad_payload"       // not JSON, or too large
	CrashLoop        DeadLetterReason = "crash_loop"        // handed out time and again, never settled
)

// DeadLetterReasons lists every reason, for help texts and for checking input.
func DeadLetterReasons() []DeadLetterReason {
	return []DeadLetterReason{Exhausted, RejectedByApp, Expired, EndpointDisabled, NoRoute, BadPayload, CrashLoop}
}

// DeadLetter is an event together with why it was given up.
type DeadLetter struct {
	Event
	// Reason is one of the constants above.
	Reason DeadLetterReason
	// Err says in words what went wrong last.
	Err string
	// Status is the last HTTP status; 0 when there was no answer.
	Status int
	// FailedAt is when the event was given up.
	FailedAt time.Time
	// Sequence is the message's place in the DLQ stream; 0 before it is stored.
	Sequence uint64
	// Size is the payload's, in bytes, also of one that was read without it;
	// 0 before it is stored.
	Size int
}

// maxErrorLength bounds Backstop-Error. Together with the other headers it has
// to fit between Settings.MaxMsgSize and the server's max_payload.
const maxErrorLength = 1 << 10

// Msg returns the message that stores the dead letter: the event's own payload
// byte for byte, and the rest in headers. Its de-duplication key is the
// event's origin at its endpoint: writing it again after a crash adds nothing,
// while a replayed event, which is another accepted publish, may fail anew.
func (d DeadLetter) Msg() *nats.Msg {
	msg := nats.NewMsg(d.DeadLetterSubject())
	msg.Data = d.Payload
	h := msg.Header
	d.describe(h)
	h.Set(HeaderMsgID, "dlq:"+d.dedupKey())
	h.Set(HeaderApp, cutName(d.App))
	h.Set(HeaderCapability, cutName(d.Capability))
	h.Set(HeaderReason, string(d.Reason))
	h.Set(HeaderError, headerText(d.Err))
	h.Set(HeaderFailedAt, d.FailedAt.UTC().Format(time.RFC3339Nano))
	if d.Status != 0 {
		h.Set(HeaderStatus, strconv.Itoa(d.Status))
	}
	return msg
}

// DecodeDeadLetter reads a dead letter from a message of the DLQ stream.
func DecodeDeadLetter(subject string, h nats.Header, data []byte, sequence uint64) (DeadLetter, error) {
	kind, id, err := ParseSubject(subject)
	if err != nil {
		return DeadLetter{}, err
	}
	if kind != DLQ {
		return DeadLetter{}, fmt.Errorf("a message on %s is not a dead letter", subject)
	}
	id.Capability, id.App = nameOfToken(id.Capability, h.Get(HeaderCapability)), nameOfToken(id.App, h.Get(HeaderApp))
	d := DeadLetter{
		Event:    Event{ID: h.Get(HeaderID), EndpointID: id, Payload: data},
		Reason:   DeadLetterReason(h.Get(HeaderReason)),
		Err:      h.Get(HeaderError),
		Sequence: sequence,
		Size:     len(data),
	}
	if size, err := strconv.Atoi(h.Get(nats.MsgSize)); err == nil {
		d.Size = size
	}
	d.believe(h)
	d.TraceParent, d.TraceState = h.Get(HeaderTraceParent), h.Get(HeaderTraceState)
	d.Status, _ = strconv.Atoi(h.Get(HeaderStatus))
	d.FailedAt, _ = time.Parse(time.RFC3339Nano, h.Get(HeaderFailedAt))
	return d, nil
}

// ReplayMsg returns the message that publishes the dead letter's event again,
// with the same id for the app and no attempts spent. Its de-duplication key is
// the dead letter itself, so that replaying twice makes one delivery.
func (d DeadLetter) ReplayMsg() *nats.Msg {
	msg := nats.NewMsg(d.Subject(Events))
	msg.Data = d.Payload
	msg.Header.Set(HeaderID, d.ID)
	msg.Header.Set(HeaderMsgID, "replay:"+strconv.FormatUint(d.Sequence, 10)+":"+d.Origin)
	d.trace(msg.Header)
	return msg
}

// headerText makes s fit for a header: one line, no control characters, bounded.
func headerText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxErrorLength {
		s = strings.ToValidUTF8(s[:maxErrorLength], "")
	}
	return strings.TrimSpace(s)
}
