package rollup

import (
	"encoding/json"
	"maps"

	"backstop/dispatcher"
	"backstop/streams"
)

// Counts is what came of attempts.
type Counts struct {
	// Attempts made a request.
	Attempts uint64 `json:"attempts"`
	// Succeeded are those of them at which the app did its part.
	Succeeded uint64 `json:"succeeded"`
	// Failed are the others, by reason.
	Failed map[string]uint64 `json:"failed,omitempty"`
	// TimedOut are those that had no answer in time; Failed has them too.
	TimedOut uint64 `json:"timedOut,omitempty"`
	// Retries are those that were not the first of their event.
	Retries uint64 `json:"retries,omitempty"`
	// Refused made no request: the breaker was open, the limit reached. They
	// say nothing of the app, and are not among Attempts.
	Refused uint64 `json:"refused,omitempty"`
	// Calls are the calls that were answered, by who answered.
	Calls map[streams.Source]uint64 `json:"calls,omitempty"`
	// DurationMs is the time that Attempts took, added up.
	DurationMs float64 `json:"durationMs,omitempty"`
}

// Entry is what counts of an entry of the delivery log.
type Entry struct {
	Attempt    int            `json:"attempt"`
	DurationMs float64        `json:"durationMs"`
	Requested  bool           `json:"requested"`
	Success    bool           `json:"success"`
	TimedOut   bool           `json:"timedOut"`
	Reason     string         `json:"reason"`
	Source     streams.Source `json:"source"`
}

// DecodeEntry reads what counts of an entry, which is faster than all of it.
func DecodeEntry(data []byte) (Entry, error) {
	e := Entry{}
	err := json.Unmarshal(data, &e)
	return e, err
}

// add counts one entry.
func (c *Counts) add(e Entry) {
	if e.Source != "" {
		if c.Calls == nil {
			c.Calls = make(map[streams.Source]uint64)
		}
		c.Calls[e.Source]++
	}
	if !e.Requested {
		c.Refused++
		return
	}
	c.Attempts++
	c.DurationMs += e.DurationMs
	if e.Attempt > 1 {
		c.Retries++
	}
	if e.TimedOut {
		c.TimedOut++
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
	c.TimedOut += other.TimedOut
	c.Retries += other.Retries
	c.Refused += other.Refused
	c.DurationMs += other.DurationMs
	c.Failed = plus(c.Failed, other.Failed)
	c.Calls = plus(c.Calls, other.Calls)
}

func plus[K comparable](sum, other map[K]uint64) map[K]uint64 {
	if len(other) == 0 {
		return sum
	}
	if sum == nil {
		return maps.Clone(other)
	}
	for k, n := range other {
		sum[k] += n
	}
	return sum
}

// clone returns a copy that shares nothing.
func (c Counts) clone() Counts {
	c.Failed, c.Calls = maps.Clone(c.Failed), maps.Clone(c.Calls)
	return c
}

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
	return c.DurationMs / float64(c.Attempts)
}
