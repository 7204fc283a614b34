package streams

import (
	"encoding/json"
	"time"
)

// Source is where the answer to a call came from.
type Source string

// The sources of the contract's section 7.
const (
	SourceApp     Source = "app"     // the app itself
	SourceCache   Source = "cache"   // an earlier answer of the app for the same key
	SourceDefault Source = "default" // the platform's own behaviour
	SourceQueued  Source = "queued"  // nobody yet: the payload is now an event for the same endpoint
	SourcePending Source = "pending" // nobody yet: a person decides, or the app answers by its callback
	SourceNone    Source = "none"    // nobody: the reply is an error
)

// The codes of errors that Backstop itself answers a call with; an app's own
// codes come as the app wrote them, with SourceApp. They are stable: programs
// may rely on them.
const (
	CodeAppUnavailable   = "app_unavailable"   // the app did not answer (well), and nothing stands in for it
	CodeAppBusy          = "app_busy"          // as many requests are at the app as it may have, and nothing stands in for it
	CodeEndpointDisabled = "endpoint_disabled" // the app or an operator switched the endpoint off
	CodeNoRoute          = "no_route"          // no manifest declares such a webhook
	CodeNotACall         = "not_a_call"        // the webhook takes events only
	CodeBadPayload       = "bad_payload"       // not JSON, or empty
	CodePayloadTooLarge  = "payload_too_large" // more than MaxPayload
	CodeBadTimeout       = "bad_timeout"       // X-Timeout-Ms is not a number
	CodeDeadlineExceeded = "deadline_exceeded" // X-Timeout-Ms leaves no time to ask anybody
	CodeInternal         = "internal"          // a fault of Backstop itself
)

// Reply is the answer to a call: the contract's section 7.
type Reply struct {
	// Success says whether there is an answer. Data holds it then, and Error
	// is nil; otherwise the reverse.
	Success bool            `json:"success"`
	Data    json.RawMessage `json:"data,omitempty"`
	Error   *ReplyError     `json:"error,omitempty"`
	// Source is who answered.
	Source Source `json:"source"`
	// Reason says why it is not the app's own answer; empty when it is.
	Reason string `json:"reason,omitempty"`
	// RequestID is the call's id, which the app saw as X-Request-ID.
	RequestID string `json:"requestId"`
	// DurationMs is how long the call was under way in Backstop.
	DurationMs int64 `json:"durationMs"`
	// AgeMs is how old a cached answer is; nil unless Source is SourceCache.
	AgeMs *int64 `json:"ageMs,omitempty"`
}

// ReplyError says why a call has no answer.
type ReplyError struct {
	// Code is one of the constants above, or the app's own with SourceApp.
	Code string `json:"code"`
	// Message is fit to be shown to a person.
	Message string `json:"message"`
}

// Age returns AgeMs as a duration, 0 when the answer was not cached.
func (r Reply) Age() time.Duration {
	if r.AgeMs == nil {
		return 0
	}
	return time.Duration(*r.AgeMs) * time.Millisecond
}
