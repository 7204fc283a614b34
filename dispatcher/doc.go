// Package dispatcher makes one webhook call over HTTP, and judges the answer.
// It knows nothing of NATS.
//
// Each concern is a Stage in its own file. They are put together once, in
// cmd/backstop, for events and calls alike:
//
//	Measure                duration, outcome, delivery log
//	  Refuse               refuses where the endpoint is disabled or paused
//	  Breaker              refuses while the circuit is open, learns from the outcome
//	    Limit              refuses above concurrency and rate
//	      Timeout          one deadline over everything below
//	        Callback       where the app may send its result later
//	          Sign         both signatures, a fresh timestamp
//	            Post       the request itself, guarded at dial time
//	              classify what the answer means, in one table
package dispatcher
