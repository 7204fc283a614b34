package dispatcher

import (
	"encoding/json"
	"time"

	"backstop/streams"
)

// Outcome is what came of an attempt. A failed webhook is the dispatcher's
// product and not an error: this one value decides ack, retry, dead letter,
// reply, breaker and metrics.
type Outcome struct {
	// Verdict says what to do with the event or call.
	Verdict Verdict
	// Effect says what the breaker learns from it.
	Effect Effect
	// Reason says why it isn't the app's own good answer. Empty when Delivered.
	Reason Reason
	// Status is the answer's HTTP status; 0 when there was none.
	Status int
	// Data is the answer's "data", of {"success":true,"data":…}. Nil when the
	// answer had none.
	Data json.RawMessage
	// AppError is the app's "no": {"success":false,"error":{…}}. Nil otherwise.
	AppError *AppError
	// Accepted says that the app answered 202: the result comes later.
	Accepted bool
	// RetryAfter is how long the app asked to be left alone, clamped to at
	// most MaxRetryAfter; 0 when it didn't ask, or asked nonsense. When
	// Refused it is how long until the circuit or the rate limit would let an
	// attempt through; 0 when nobody knows.
	RetryAfter time.Duration
	// PauseEndpoint says that RetryAfter holds for the whole endpoint (429)
	// and not for this event alone (503).
	PauseEndpoint bool
	// Gone says that the app answered 410: disable the endpoint.
	Gone bool
	// Misconfigured says that a person should look at the app's settings:
	// 401, 403, 404 and the other 4xx that are retried.
	Misconfigured bool
	// Requested says that an HTTP request was made, as far as anybody can
	// know: it spends an attempt.
	Requested bool
	// Duration is how long the attempt took, by Measure; 0 without it.
	Duration time.Duration
	// Body is the first bytes (at most 256) of an answer that was not good,
	// for the delivery log.
	Body []byte
	// Err describes the failure for a person. Nil when Delivered.
	Err error
	// Source is who answered a call, when it wasn't the app itself: a fallback
	// sets it, with Verdict Delivered and the Reason for which it was asked.
	// Empty: the app, or nobody.
	Source streams.Source
	// Age is how old a cached answer is. Zero otherwise.
	Age time.Duration
	// Audit is what a person needs to check a fallback's answer, such as the
	// seed of a draw; it goes into the notice of it. Nil for none.
	Audit map[string]any
}

// Verdict is what to do after an attempt.
type Verdict uint8

// The verdicts.
const (
	// Delivered: the app answered 2xx.
	Delivered Verdict = iota + 1
	// Retry: try again later; the attempt is spent if a request was made.
	Retry
	// Rejected: an answer that must not be tried again.
	Rejected
	// Refused: no request was made; Reason says why. No attempt is spent.
	Refused
)

// String returns the verdict's name, as in metrics and logs.
func (v Verdict) String() string {
	switch v {
	case Delivered:
		return "delivered"
	case Retry:
		return "retry"
	case Rejected:
		return "rejected"
	case Refused:
		return "refused"
	default:
		return "unknown"
	}
}

// Effect is what an outcome means to the circuit breaker.
type Effect uint8

// The effects.
const (
	NotCounted Effect = iota // says nothing about the app's health
	Success
	Failure
)

// Reason says why an attempt was not answered by the app, or not well. The
// strings are those of a call's reply and of metrics.
type Reason string

// The reasons.
const (
	ReasonTimeout        Reason = "timeout"         // no answer in time
	ReasonConnection     Reason = "connection"      // connection, DNS or TLS failed
	ReasonBadResponse    Reason = "bad_response"    // 2xx, and not the agreed JSON
	ReasonStatus         Reason = "status"          // an HTTP status that isn't 2xx
	ReasonRejected       Reason = "rejected"        // the app said no
	ReasonCircuitOpen    Reason = "circuit_open"    // the breaker is open
	ReasonSaturated      Reason = "saturated"       // as many attempts in flight as may be
	ReasonRateLimited    Reason = "rate_limited"    // over the rate limit, ours or the app's
	ReasonDisabled       Reason = "disabled"        // the endpoint is disabled
	ReasonNoRoute        Reason = "no_route"        // no such app, or no such webhook
	ReasonBadPayload     Reason = "bad_payload"     // not JSON, or too large
	ReasonBlockedAddress Reason = "blocked_address" // the guard refused the address
	ReasonLocal          Reason = "local"           // a fault on our side, as a network that is down
)

// ForCaller returns the reason in the words that a call's reply has (contract,
// section 7): to a caller, a fault between us and the app is one of the
// connection, whosever it is.
func (r Reason) ForCaller() Reason {
	if r == ReasonLocal {
		return ReasonConnection
	}
	return r
}

// AppError is an app's own error: why it says no.
type AppError struct {
	Code      string `json:"code"`
	Message   string `json:"message"`
	Retryable bool   `json:"retryable,omitempty"`
}
