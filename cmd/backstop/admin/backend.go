package admin

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
	"backstop/streams/manifest"
)

// Backend is what the API works on. Ops is required; what asks for another
// part that is nil is answered with 501.
type Backend struct {
	// Ops does what operators do.
	Ops *ops.Ops
	// Pending keeps calls that wait for a person.
	Pending Pending
	// Attempts searches the delivery log.
	Attempts Attempts
	// Stats are the rollups. The overview shows no rates without them.
	Stats Stats
	// Health is the last health check of each app. The overview judges by the
	// rates and the breakers alone without it.
	Health Health
	// Alerts are those that are raised now.
	Alerts Alerts
	// Defaults are what holds where a manifest doesn't say.
	Defaults manifest.Defaults
}

// Errors that a Pending returns, to be told apart with errors.Is.
var (
	// ErrPendingNotFound: there is no pending call with that id.
	ErrPendingNotFound = errors.New("no such pending call")
	// ErrPendingDecided: it was approved or rejected before.
	ErrPendingDecided = errors.New("somebody has decided already")
)

// Pending keeps calls that wait for a person.
type Pending interface {
	// List returns the calls in a state, newest first; "" means every state.
	List(ctx context.Context, state string) ([]PendingCall, error)
	// Get returns one call, or ErrPendingNotFound.
	Get(ctx context.Context, id string) (PendingCall, error)
	// Decide approves or rejects a call that waits, and returns it as it is
	// then; ErrPendingNotFound or ErrPendingDecided otherwise.
	Decide(ctx context.Context, id string, approve bool, by, why string) (PendingCall, error)
}

// PendingCall is a call that waits for a person, or did.
type PendingCall struct {
	ID         string `json:"id"`
	App        string `json:"app"`
	Capability string `json:"capability"`
	// State is "waiting", "approved" or "rejected".
	State string `json:"state"`
	// Created is when the call came.
	Created time.Time `json:"created"`
	// Expires is when it is given up; zero means never.
	Expires time.Time `json:"expires,omitzero"`
	// Reason is why the app did not answer.
	Reason string `json:"reason,omitempty"`
	// Payload is the call's, if it is JSON.
	Payload json.RawMessage `json:"payload,omitempty"`
	// Decided, By and Why are set once somebody has decided.
	Decided time.Time `json:"decided,omitzero"`
	By      string    `json:"by,omitempty"`
	Why     string    `json:"why,omitempty"`
}

// Attempts searches the delivery log.
type Attempts interface {
	// Search returns a page of attempts, newest first.
	Search(ctx context.Context, q AttemptQuery) (AttemptPage, error)
}

// AttemptQuery selects attempts. Empty fields select all.
type AttemptQuery struct {
	App, Capability, ID string
	// Outcome is "delivered", "retry", "rejected" or "refused".
	Outcome string
	// Since and Until bound the time, inclusively.
	Since, Until time.Time
	// Limit is the most attempts of the page, at least 1.
	Limit int
	// Cursor is where the page before ended; "" for the first.
	Cursor string
}

// AttemptPage is a page of attempts.
type AttemptPage struct {
	Attempts []streams.Attempt
	// Next is the cursor of the next page; "" when this is the last.
	Next string
}

// Stats are the rollups of attempts.
type Stats interface {
	// Endpoints returns the figures of every endpoint that had an attempt
	// since then.
	Endpoints(ctx context.Context, since time.Time) ([]EndpointStats, error)
}

// EndpointStats are the figures of one endpoint over a time.
type EndpointStats struct {
	streams.EndpointID
	Attempts  uint64
	Successes uint64
	TimedOut  uint64
	// MeanMs, P50Ms, P95Ms and P99Ms are of the attempts' durations.
	MeanMs, P50Ms, P95Ms, P99Ms float64
	// Points divide the time, oldest first, for a sparkline.
	Points []Point
}

// Point is a piece of time in EndpointStats.
type Point struct {
	Time      time.Time `json:"time"` // when it begins
	Attempts  uint64    `json:"attempts"`
	Successes uint64    `json:"successes"`
	P95Ms     float64   `json:"p95Ms"`
}

// Health is the last health check of each app.
type Health interface {
	// Checks returns them by app.
	Checks(ctx context.Context) (map[string]HealthCheck, error)
}

// HealthCheck is the last health check of an app.
type HealthCheck struct {
	// State is "healthy", "degraded" or "unhealthy".
	State string    `json:"state"`
	Time  time.Time `json:"time"`
	// Since is when the state began.
	Since   time.Time `json:"since,omitzero"`
	Message string    `json:"message,omitempty"`
}

// Alerts are those that are raised now.
type Alerts interface {
	// Raised returns them, newest first.
	Raised(ctx context.Context) ([]Alert, error)
}

// Alert is one that is raised.
type Alert struct {
	// Rule is its name, such as "success_rate".
	Rule       string    `json:"rule"`
	App        string    `json:"app,omitempty"`
	Capability string    `json:"capability,omitempty"`
	Since      time.Time `json:"since"`
	Message    string    `json:"message"`
	// Value is what was measured, and Threshold what it may be.
	Value     float64 `json:"value"`
	Threshold float64 `json:"threshold"`
}
