package streams

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// MaxPayload is the most bytes of JSON that an event or a call may carry.
// A larger event is stored, so that its publisher is acknowledged or refused
// by the broker alone, and then dead-lettered as bad_payload.
const MaxPayload = 256 << 10

// CheckPayload tells whether a payload can be passed on: nil, or what is wrong
// with it. Too large is what has more than MaxPayload bytes.
func CheckPayload(payload []byte) error {
	switch {
	case len(payload) > MaxPayload:
		return fmt.Errorf("the payload has %d bytes; at most %d are passed on", len(payload), MaxPayload)
	case len(payload) == 0:
		return errors.New("the payload is empty; it has to be JSON")
	case !ValidJSON(payload):
		return errors.New("the payload is not JSON")
	}
	return nil
}

// ValidJSON tells whether data is JSON, which is UTF-8 (RFC 8259, section 8.1).
// encoding/json alone lets any bytes pass in strings, which most other parsers
// then choke on.
func ValidJSON(data []byte) bool { return json.Valid(data) && utf8.Valid(data) }

// Event is one accepted publish on its way to an endpoint.
type Event struct {
	// ID is what the app sees as X-Request-ID, the same on every attempt and
	// after a replay. Never empty.
	ID string
	// Origin identifies the one accepted publish that this event is, through
	// every move between streams: "<time>-<sequence>" of the message as it was
	// first stored. Two publishes with the same ID, apart by more than the
	// de-duplication window, are two events; keying the moves and dead letters
	// by ID would drop the second as a duplicate of the first, and lose it.
	Origin string
	// EndpointID says for whom. An empty App means a broadcast.
	EndpointID
	// Payload is passed on byte for byte. It may be anything; CheckPayload
	// says whether it can be processed.
	Payload []byte
	// PublishedAt is when the broker stored the event (of a replay: when it
	// was replayed). MaxAge counts from here.
	PublishedAt time.Time
	// Attempts is the number of requests that were made before this delivery.
	// It travels in a header and never comes from the broker's delivery count,
	// which also counts what led to no request: crashes, shutdowns, pauses.
	Attempts int
	// Hops is the number of times that the event was parked, which tells one
	// parking from the next in the lane's de-duplication.
	Hops int
	// Redeliveries is the number of times that the event was delivered again
	// because its app had not called back in time.
	Redeliveries int
	// NotBefore is the earliest time of the next attempt. Zero means now.
	NotBefore time.Time
	// TraceParent and TraceState are the publisher's W3C trace context.
	TraceParent, TraceState string
}

// Decode reads an event from a message of EVENTS_<capability> or LANES.
//
// Only a message in LANES, where no service may publish, is believed about the
// attempts made, the time of publishing, the origin and the earliest next
// attempt. An id is taken from Backstop-Id, else from Nats-Msg-Id; one that is
// outside the alphabet of ValidID is replaced by a hash of itself, and a
// missing one by the origin, so that every redelivery derives the same id.
//
// The error says that the message isn't an event at all. When it lies in a stream,
// but on a subject of another shape, its publisher was told all the same that it
// is stored: the event that comes with the error is for an endpoint that can't
// exist, to be dead-lettered as such. (NATS takes a publish to events.analytics.*
// with a star for an app; such events were once passed over, and trimmed.)
// Decode does not look at the payload.
func Decode(msg jetstream.Msg) (Event, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return Event{}, err
	}
	return decode(msg.Subject(), msg.Headers(), msg.Data(), meta.Sequence.Stream, meta.Timestamp)
}

// DecodeRaw reads an event as Decode does, from a message that was got by its
// sequence and not handed out.
func DecodeRaw(msg *jetstream.RawStreamMsg) (Event, error) {
	return decode(msg.Subject, msg.Header, msg.Data, msg.Sequence, msg.Time)
}

func decode(subject string, h nats.Header, data []byte, sequence uint64, stored time.Time) (Event, error) {
	kind, id, wrong := ParseSubject(subject)
	if wrong == nil && kind != Events && kind != Lanes {
		wrong = fmt.Errorf("a message on %s is not an event", subject)
	}
	if wrong != nil {
		id = strayed(subject)
	}
	e := Event{
		EndpointID:  id,
		Origin:      strconv.FormatInt(stored.UnixNano(), 36) + "-" + strconv.FormatUint(sequence, 10),
		Payload:     data,
		PublishedAt: stored,
	}
	if h != nil {
		e.TraceParent, e.TraceState = h.Get(HeaderTraceParent), h.Get(HeaderTraceState)
		e.ID = h.Get(HeaderID)
		if e.ID == "" {
			e.ID = h.Get(HeaderMsgID)
		}
	}
	if kind == Lanes {
		e.believe(h)
	}
	if e.ID == "" {
		e.ID = e.Origin
	} else {
		e.ID = IDOf(e.ID)
	}
	return e, wrong
}

// strayed returns the endpoint, which can't exist, of a message on a subject of
// another shape than an event's: what stands in the place of the app, or else
// the whole subject.
func strayed(subject string) EndpointID {
	tokens := strings.SplitN(strings.TrimPrefix(subject, retired), ".", 3)
	switch kind := Kind(tokens[0]); {
	case len(tokens) == 3 && (kind == Events || kind == Lanes) && tokens[2] != "":
		return EndpointID{Capability: tokens[1], App: tokens[2]}
	case len(tokens) > 1:
		return EndpointID{Capability: tokens[1], App: subject}
	}
	return EndpointID{App: subject}
}

// believe takes over what an earlier delivery wrote into the headers. A value
// that can't be read is left at its default: the worst that follows is an
// attempt more, while refusing the message would lose it.
func (e *Event) believe(h nats.Header) {
	if s := h.Get(HeaderOrigin); s != "" {
		e.Origin = s
	}
	if n, err := strconv.Atoi(h.Get(HeaderAttempts)); err == nil && n > 0 {
		e.Attempts = n
	}
	if n, err := strconv.Atoi(h.Get(HeaderHops)); err == nil && n > 0 {
		e.Hops = n
	}
	if n, err := strconv.Atoi(h.Get(HeaderRedeliveries)); err == nil && n > 0 {
		e.Redeliveries = n
	}
	if t, err := time.Parse(time.RFC3339Nano, h.Get(HeaderNotBefore)); err == nil {
		e.NotBefore = t
	}
	if t, err := time.Parse(time.RFC3339Nano, h.Get(HeaderPublishedAt)); err == nil {
		e.PublishedAt = t
	}
}

// LaneMsg returns the message that parks the event in its endpoint's own lane,
// one hop on. Its de-duplication key is the origin with the number of hops:
// parking the same delivery twice, as after a crash between the store and the
// ack, leaves one message, while every later parking is a new one.
func (e Event) LaneMsg() *nats.Msg {
	e.Hops++
	msg := nats.NewMsg(e.Subject(Lanes))
	msg.Data = e.Payload
	e.describe(msg.Header)
	msg.Header.Set(HeaderHops, strconv.Itoa(e.Hops))
	msg.Header.Set(HeaderMsgID, "lane:"+e.dedupKey()+":"+strconv.Itoa(e.Hops))
	if !e.NotBefore.IsZero() {
		msg.Header.Set(HeaderNotBefore, e.NotBefore.UTC().Format(time.RFC3339Nano))
	}
	return msg
}

// QueuedMsg returns the message that makes an event of a call in its
// endpoint's own lane. Its de-duplication key is the id: a caller who calls
// again with the same id, having missed the answer, means the same event.
func (e Event) QueuedMsg() *nats.Msg {
	msg := e.LaneMsg()
	msg.Header.Set(HeaderMsgID, "queued:"+e.Capability+":"+e.App+":"+e.ID)
	return msg
}

// CopyMsg returns the copy of a broadcast for one app, to be published on the
// app's own subject. It keeps the broadcast's id; its de-duplication key is
// made of the broadcast's origin and the app, so that fanning out again after
// a crash adds nothing.
func (e Event) CopyMsg(app string) *nats.Msg {
	e.App = app
	msg := nats.NewMsg(e.Subject(Events))
	msg.Data = e.Payload
	msg.Header.Set(HeaderID, e.ID)
	msg.Header.Set(HeaderMsgID, "copy:"+e.dedupKey())
	e.trace(msg.Header)
	return msg
}

// dedupKey names the event at its endpoint in de-duplication keys. The colons
// around it keep these keys apart from ids of services, which can hold none
// (an id outside the alphabet could, and would have to guess a nanosecond).
func (e Event) dedupKey() string {
	return cutName(e.Capability) + ":" + cutName(e.App) + ":" + e.Origin
}

// describe writes what Decode believes of a lane message.
func (e Event) describe(h nats.Header) {
	h.Set(HeaderID, e.ID)
	h.Set(HeaderOrigin, e.Origin)
	h.Set(HeaderAttempts, strconv.Itoa(e.Attempts))
	if e.Redeliveries > 0 {
		h.Set(HeaderRedeliveries, strconv.Itoa(e.Redeliveries))
	}
	h.Set(HeaderPublishedAt, e.PublishedAt.UTC().Format(time.RFC3339Nano))
	e.trace(h)
}

func (e Event) trace(h nats.Header) {
	if e.TraceParent != "" {
		h.Set(HeaderTraceParent, e.TraceParent)
	}
	if e.TraceState != "" {
		h.Set(HeaderTraceState, e.TraceState)
	}
}
