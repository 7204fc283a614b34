package manifest

import (
	"time"

	"backstop/streams"
)

// Endpoint is one webhook with every default filled in: what the pipeline
// needs to know to call one app for one capability. Endpoints are made by
// Manifest.Endpoints and are never changed afterwards; a new manifest makes
// new ones.
type Endpoint struct {
	streams.EndpointID

	// URL is where requests go: baseUrl and path joined.
	URL string
	// Async says that the webhook takes events. A webhook that doesn't takes
	// calls only, and an event for it is a dead letter.
	Async bool
	// Timeout is how long one attempt may take, from dialling to the last byte
	// of the answer.
	Timeout time.Duration
	// Retry says how often and how far apart an event is tried.
	Retry RetryPolicy
	// Breaker says when the circuit opens and closes.
	Breaker BreakerPolicy
	// Concurrency is the most attempts in flight at once. At least 1.
	Concurrency int
	// RateLimit is the most attempts a second. Zero means no limit.
	RateLimit float64
	// MaxAge is how old an event may become before it is dead-lettered as expired.
	MaxAge time.Duration
	// Callback says what is demanded after an event was delivered.
	Callback CallbackPolicy
	// FallbackOn lists error codes of the app that make a call fall back.
	FallbackOn []string
	// Fallback lists what answers a call that the app didn't, in order.
	Fallback []Strategy
	// Headers are sent with every request, beside Backstop's own.
	Headers map[string]string
}

// RetryPolicy says how an endpoint's failed events are tried again.
type RetryPolicy struct {
	// MaxAttempts is the most requests for one event, the first included. At least 1.
	MaxAttempts int
	// InitialDelay is the wait before the second attempt.
	InitialDelay time.Duration
	// MaxDelay is the longest wait between two attempts.
	MaxDelay time.Duration
	// Backoff says how the wait grows.
	Backoff Backoff
}

// Backoff is how the wait between attempts grows.
type Backoff string

// The backoffs that a manifest may name. Each is spread by ±20% so that events
// that failed together don't come back together.
const (
	Exponential Backoff = "exponential" // doubles with each attempt; the default
	Linear      Backoff = "linear"      // grows by the initial delay with each attempt
	Fixed       Backoff = "fixed"       // stays at the initial delay
)

// CallbackPolicy says within which time an app must call back.
type CallbackPolicy struct {
	// Within is how long after the delivery (2xx) the callback may take. Zero
	// means that none is demanded.
	Within time.Duration
	// Retry says that an event without its callback is delivered again.
	Retry bool
}

// Demanded tells whether there is a time to call back within.
func (p CallbackPolicy) Demanded() bool { return p.Within > 0 }

// BreakerPolicy says when an endpoint's circuit opens and closes.
type BreakerPolicy struct {
	// FailureThreshold is the number of failures in a row that opens it. At least 1.
	FailureThreshold int
	// RecoveryTimeout is how long it stays open before it lets a probe through.
	RecoveryTimeout time.Duration
	// SuccessThreshold is the number of successes in a row, half-open, that
	// closes it. At least 1.
	SuccessThreshold int
}

// Strategy is one entry of a webhook's fallback list.
type Strategy struct {
	// Strategy is "default", "cached", "queue" or "pending".
	Strategy string `json:"strategy"`
	// Handler, for default: "random-selection", "reject", "accept", "static"
	// or "service".
	Handler string `json:"handler,omitempty"`
	// Value, for default/static: the answer's data, any JSON.
	Value RawJSON `json:"value,omitempty"`
	// Subject, for default/service: where the platform's service listens.
	Subject string `json:"subject,omitempty"`
	// Key, for cached: JSON pointers into the payload; none means all of it.
	Key []string `json:"key,omitempty"`
	// TTL, for cached: how old an answer may be, in milliseconds; 0 means 300000.
	TTL int64 `json:"ttl,omitempty"`
}
