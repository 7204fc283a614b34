package rollup

import (
	"maps"
	"math"

	"backstop/dispatcher"
)

// Counts is what came of attempts.
type Counts struct {
	// Attempts made a request.
	Attempts uint64 `json:"attempts"`
	// Succeeded are those of them at which the app did its part.
	Succeeded uint64 `json:"succeeded"`
	// Failed are the others, by reason. Nil when there were none.
	Failed map[string]uint64 `json:"failed,omitempty"`
	// Retries are those that were not the first of their event.
	Retries uint64 `json:"retries,omitempty"`
	// Refused made no request: the breaker was open, the limit reached. They
	// say nothing of the app, and are not among Attempts.
	Refused uint64 `json:"refused,omitempty"`
	// DurationUs is the time that Attempts took, added up, in microseconds.
	DurationUs uint64 `json:"durationUs,omitempty"`
}

// add counts one entry.
func (c *Counts) add(e Entry) {
	if !e.Requested {
		c.Refused++
		return
	}
	c.Attempts++
	c.DurationUs += uint64(math.Round(e.DurationMs * 1000))
	if e.Attempt > 1 {
		c.Retries++
	}
	if e.Success {
		c.Succeeded++
		return
	}
	if c.Failed == nil {
		c.Failed = make(map[string]uint64)
	}
	c.Failed[e.Reason]++
}

// merge adds other counts.
func (c *Counts) merge(other Counts) {
	c.Attempts += other.Attempts
	c.Succeeded += other.Succeeded
	c.Retries += other.Retries
	c.Refused += other.Refused
	c.DurationUs += other.DurationUs
	if c.Failed == nil {
		c.Failed = maps.Clone(other.Failed)
		return
	}
	for reason, n := range other.Failed {
		c.Failed[reason] += n
	}
}

// clone returns a copy that shares nothing.
func (c Counts) clone() Counts {
	c.Failed = maps.Clone(c.Failed)
	return c
}

// TimedOut is how many attempts had no answer in time.
func (c Counts) TimedOut() uint64 { return c.Failed[string(dispatcher.ReasonTimeout)] }

// Judged is how many attempts say something of the app: those that made a
// request, without those that failed by a fault on our side.
func (c Counts) Judged() uint64 { return c.Attempts - c.Failed[string(dispatcher.ReasonLocal)] }

// SuccessRate returns the share of Judged that succeeded, from 0 to 1; false
// when there were none.
func (c Counts) SuccessRate() (float64, bool) {
	judged := c.Judged()
	if judged == 0 {
		return 0, false
	}
	return float64(c.Succeeded) / float64(judged), true
}

// AverageMs is how long an attempt took on average; 0 when there were none.
func (c Counts) AverageMs() float64 {
	if c.Attempts == 0 {
		return 0
	}
	return float64(c.DurationUs) / 1000 / float64(c.Attempts)
}
