// Package limit keeps how much of an endpoint's traffic goes out at once.
//
// Three numbers hold together for each endpoint:
//
//	Concurrency   attempts in flight, events and calls together: never more
//	RateLimit     attempts begun a second: never more, but for a tenth of a
//	              second's worth in a burst
//	Window        events in flight: found out, by what the app can take
//
// The window grows with good answers, doubling in the time of one as long as
// they come as fast as ever; holds still, and shrinks, when they take longer
// because more go out than the app works on at once; and halves with each
// failure. So an app that hangs soon holds one request, a fast one gets all that
// its Concurrency allows, and one in between gets what it can take.
package limit

// Reason is why an attempt may not be made now.
type Reason uint8

// The reasons.
const (
	None        Reason = iota // it may
	Saturated                 // as many are in flight as may be
	RateLimited               // as many were begun lately as may be
)
