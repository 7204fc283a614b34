package streams

import "github.com/nats-io/nats.go"

// Headers that a service may set on an event or a call.
const (
	// HeaderMsgID is the event's id and JetStream's de-duplication key. It
	// reaches the app as X-Request-ID.
	HeaderMsgID = "Nats-Msg-Id"
	// HeaderTimeoutMs is, on a call, the caller's remaining patience in milliseconds.
	HeaderTimeoutMs = "X-Timeout-Ms"
	// HeaderTraceParent and HeaderTraceState are the W3C trace context,
	// passed on to the app as they are.
	HeaderTraceParent = "traceparent"
	HeaderTraceState  = "tracestate"
)

// MaxTrace is the most bytes of a trace header that is passed on: what W3C says
// that everybody should. A longer one could make an app refuse the request.
const MaxTrace = 512

// TraceOf returns the trace context that a message brings, without what is too
// long to be passed on. Nor does that go from stream to stream: NATS takes
// headers of 64 KiB, and an event that came with as much could be neither parked
// nor buried with our own beside them. Such a one was tried for ever.
func TraceOf(h nats.Header) (parent, state string) {
	if parent = h.Get(HeaderTraceParent); len(parent) > MaxTrace {
		parent = ""
	}
	if state = h.Get(HeaderTraceState); len(state) > MaxTrace {
		state = ""
	}
	return parent, state
}

// Headers that Backstop sets. On an event in its own lane they carry what the
// broker's delivery count can't: how many requests were really made.
const (
	// HeaderID carries the event's id where Nats-Msg-Id is taken by another
	// purpose: in lanes, copies of a broadcast, replays and dead letters.
	HeaderID = "Backstop-Id"
	// HeaderOrigin names the accepted publish that an event comes from; see
	// Event.Origin.
	HeaderOrigin = "Backstop-Origin"
	// HeaderAttempts is the number of requests made so far.
	HeaderAttempts = "Backstop-Attempts"
	// HeaderHops is the number of times that the event was parked.
	HeaderHops = "Backstop-Hops"
	// HeaderRedeliveries is the number of times that the event was delivered
	// again because its app had not called back in time.
	HeaderRedeliveries = "Backstop-Redeliveries"
	// HeaderNotBefore is the earliest time of the next attempt (RFC 3339).
	HeaderNotBefore = "Backstop-Not-Before"
	// HeaderPublishedAt is when the event was accepted (RFC 3339 with fraction).
	HeaderPublishedAt = "Backstop-Published-At"

	// HeaderResult says what a result is: "callback", "approved" or "rejected".
	HeaderResult = "Backstop-Result"

	// The rest describe a dead letter; the first two a result as well.
	HeaderApp        = "Backstop-App"
	HeaderCapability = "Backstop-Capability"
	HeaderReason     = "Backstop-Reason"
	HeaderError      = "Backstop-Error"
	HeaderStatus     = "Backstop-Status"
	HeaderFailedAt   = "Backstop-Failed-At"
)
