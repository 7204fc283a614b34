package health

import (
	"slices"
	"time"

	"backstop/streams"
)

// Next returns the app's entry after a check that began at the given time. A
// check that taught nothing changes nothing. It leaves Metrics, By and Revision
// as they are.
//
// A state changes only when two checks in a row are on the same side of it: two
// that are worse move it to the better of the two, two that are better to the
// worse of the two. Only a first state is taken at once, unless it is unhealthy.
func Next(before streams.Health, r Result, at time.Time) streams.Health {
	if r.State == streams.HealthUnknown {
		return before
	}
	h := before
	h.State = settle(before.State, before.Result, r.State)
	if h.State != before.State || h.Since.IsZero() {
		h.Since = at
	}
	h.CheckedAt, h.Result, h.Status, h.DurationMs, h.Reason, h.Error = at, r.State, r.Status, r.Duration.Milliseconds(), string(r.Reason), ""
	if r.Err != nil {
		h.Error = r.Err.Error()
	}
	h.Failures = 0
	if r.State == streams.Unhealthy {
		h.Failures = before.Failures + 1
	}
	return h
}

// severity orders the states, from good to bad.
var severity = []streams.HealthState{streams.Healthy, streams.Degraded, streams.Unhealthy}

// settle returns the state after two checks, of which last came before now:
// the middle one of the three.
func settle(state, last, now streams.HealthState) streams.HealthState {
	s, l, n := slices.Index(severity, state), slices.Index(severity, last), slices.Index(severity, now)
	switch {
	case n < 0: // nothing learnt
		return state
	case s < 0: // no state yet
		if now == streams.Unhealthy && last != streams.Unhealthy {
			return streams.HealthUnknown
		}
		return now
	case l < 0:
		return state
	}
	three := []int{s, l, n}
	slices.Sort(three)
	return severity[three[1]]
}
