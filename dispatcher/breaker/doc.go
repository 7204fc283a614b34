// Package breaker keeps a circuit breaker for each endpoint, around
// sony/gobreaker.
//
//	Closed    attempts go through; FailureThreshold failures in a row open it
//	Open      attempts are refused until RecoveryTimeout is over
//	HalfOpen  at most SuccessThreshold attempts go through; that many successes
//	          close it, and one failure opens it again
//
// gobreaker counts and decides. What it lacks is added here: a breaker can be
// opened and closed from outside (another replica, an operator), stays open
// for any time, takes a changed policy without forgetting that it is open, and
// reports changes in order with no lock held.
package breaker

import (
	"time"

	"backstop/streams"
)

// State is what a breaker does with attempts.
type State uint8

// The states.
const (
	Closed   State = iota // lets everything through
	HalfOpen              // lets a few through, to see whether the app works again
	Open                  // refuses everything
)

// String returns the state's name, as in logs and metrics.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	case Open:
		return "open"
	default:
		return "unknown"
	}
}

// Result is what an attempt says about the app's health.
type Result uint8

// The results.
const (
	Ignored Result = iota // nothing; as if the attempt had not been made
	Success
	Failure
)

// Cause is why a breaker changed.
type Cause string

// The causes.
const (
	CauseFailures  Cause = "failures"  // of attempts, as many as the policy takes
	CauseElapsed   Cause = "elapsed"   // the time to stay open is over, and an attempt goes through
	CauseRecovered Cause = "recovered" // the attempts let through were answered
	CauseRemote    Cause = "remote"    // another replica said so
	CauseOperator  Cause = "operator"  // a person said so
)

// Change tells that a breaker changed its state, or how long it stays open.
type Change struct {
	ID streams.EndpointID
	// From is the To of the change before; Closed in the first.
	From, To State
	// Until is when an open breaker will let attempts through again. Zero
	// means when it is reset, and in every state but Open.
	Until time.Time
	Cause Cause
	// Failures is the number of failures in a row so far.
	Failures int
}
