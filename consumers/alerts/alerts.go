// Package alerts is the contract's four alerts as rules over facts: what is
// known of the endpoints now, and which alerts are raised, decide which ones to
// raise and which to clear. It keeps no state, knows no clock and sends nothing.
//
// An alert is cleared not where it is raised but well below, so that a value at
// the threshold doesn't raise and clear it all day.
package alerts

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"backstop/streams"
)

// Thresholds of the contract's section 10, and where each alert is cleared.
const (
	// RateWindow is what the success rate is measured over.
	RateWindow = time.Hour
	// RateBelow is the success rate that raises, RateClear the one that clears.
	RateBelow = 0.95
	RateClear = 0.97
	// SlowWindow is what the 95th percentile is measured over: short enough
	// that an app which is fast again is seen to be.
	SlowWindow = 15 * time.Minute
	// SlowAbove and SlowClear are shares of the endpoint's timeout.
	SlowAbove = 0.80
	SlowClear = 0.70
	// EnoughAttempts within the window are needed to raise either, and
	// EnoughFailures of them for the success rate, as one failure says little.
	// With fewer than FewAttempts left they are cleared.
	EnoughAttempts = 10
	EnoughFailures = 2
	FewAttempts    = 5
	// BreakerHold is how long a breaker has to be closed until its alert is cleared.
	BreakerHold = 30 * time.Second
	// LettersAbove raises, LettersClear or fewer clear: all endpoints together.
	LettersAbove = 100
	LettersClear = 80
)

// Facts is what is known.
type Facts struct {
	Now time.Time
	// Endpoints are those that manifests declare.
	Endpoints []Endpoint
	// DeadLetters is how many wait for a decision, DeadLettersAt how many of
	// them at each endpoint, as far as that is known.
	DeadLetters   uint64
	DeadLettersAt map[streams.EndpointID]uint64
}

// Endpoint is what is known of one.
type Endpoint struct {
	streams.EndpointID
	Timeout time.Duration
	// Hour is of RateWindow: attempts that say something of the app, and those
	// of them that succeeded.
	Hour struct{ Judged, Succeeded uint64 }
	// Recent is of SlowWindow: attempts that made a request, and their 95th
	// percentile in milliseconds.
	Recent struct {
		Attempts uint64
		P95Ms    float64
	}
	// Breaker is nil while traffic flows.
	Breaker *streams.Gate
	// LastOpen is when the breaker was last seen open. Zero: never, as far as
	// anybody knows.
	LastOpen time.Time
}

// Changes is what to do.
type Changes struct{ Raise, Clear []streams.Alert }

// Evaluate decides which alerts to raise and which of the raised ones to clear.
func Evaluate(f Facts, raised map[streams.AlertKey]streams.Alert) Changes {
	e := evaluation{now: f.Now, raised: raised, known: make(map[streams.AlertKey]bool)}
	for i := range f.Endpoints {
		at := &f.Endpoints[i]
		e.judge(successRate(at))
		e.judge(slow(at))
		e.judge(breakerOpen(at, f.Now))
	}
	e.judge(deadLetters(f.DeadLetters, f.DeadLettersAt))
	e.clearUnknown()
	slices.SortFunc(e.Raise, byKey)
	slices.SortFunc(e.Clear, byKey)
	return e.Changes
}

func byKey(a, b streams.Alert) int { return cmp.Compare(a.String(), b.String()) }

// finding is what one rule says of one endpoint. Its texts are only made when
// they are needed: of 10,000 endpoints hardly any has something to tell.
type finding struct {
	key              streams.AlertKey
	value, threshold float64
	raise            bool                                            // it is above its threshold
	why              func() (message string, details map[string]any) // why it would be raised
	clear            bool                                            // it is far enough below
	clean            func() string                                   // why it would be cleared
}

type evaluation struct {
	Changes
	now    time.Time
	raised map[streams.AlertKey]streams.Alert
	known  map[streams.AlertKey]bool // what is raised and a rule had a say on
}

func (e *evaluation) judge(f finding) {
	was, is := e.raised[f.key]
	if is {
		e.known[f.key] = true
	}
	switch {
	case f.raise && !is:
		alert := streams.Alert{AlertKey: f.key, Value: f.value, Threshold: f.threshold, Since: e.now}
		alert.Message, alert.Details = f.why()
		e.Raise = append(e.Raise, alert)
	case f.clear && is:
		e.clear(was, f.value, f.clean())
	}
}

func (e *evaluation) clear(was streams.Alert, value float64, why string) {
	was.ClearedAt, was.Value, was.Message, was.Details = e.now, value, why, nil
	e.Clear = append(e.Clear, was)
}

// clearUnknown clears what was raised at endpoints that are no more.
func (e *evaluation) clearUnknown() {
	for key, was := range e.raised {
		if !e.known[key] {
			e.clear(was, 0, fmt.Sprintf("no manifest declares %s any more", key.ID()))
		}
	}
}

func at(rule streams.AlertRule, id streams.EndpointID) streams.AlertKey {
	return streams.AlertKey{Rule: rule, App: id.App, Capability: id.Capability}
}

// percent rounds down to a tenth, so that 94.96% isn't told as 95.
func percent(share float64) string { return fmt.Sprintf("%.1f%%", math.Floor(share*1000)/10) }

func successRate(e *Endpoint) finding {
	rate := 1.0
	if e.Hour.Judged > 0 {
		rate = float64(e.Hour.Succeeded) / float64(e.Hour.Judged)
	}
	few := e.Hour.Judged < FewAttempts
	return finding{
		key: at(streams.AlertSuccessRate, e.EndpointID), value: rate, threshold: RateBelow,
		raise: e.Hour.Judged >= EnoughAttempts && e.Hour.Judged-e.Hour.Succeeded >= EnoughFailures && rate < RateBelow,
		why: func() (string, map[string]any) {
			return fmt.Sprintf("only %s of the attempts at %s succeeded within the hour (%d of %d)", percent(rate), e.EndpointID, e.Hour.Succeeded, e.Hour.Judged),
				map[string]any{"attempts": e.Hour.Judged, "succeeded": e.Hour.Succeeded}
		},
		clear: few || rate >= RateClear,
		clean: func() string {
			if few {
				return fmt.Sprintf("hardly any attempts at %s within the hour", e.EndpointID)
			}
			return fmt.Sprintf("%s of the attempts at %s succeeded within the hour", percent(rate), e.EndpointID)
		},
	}
}

func slow(e *Endpoint) finding {
	timeout := float64(e.Timeout) / float64(time.Millisecond)
	few := e.Recent.Attempts < FewAttempts
	p95 := func() time.Duration {
		return time.Duration(e.Recent.P95Ms * float64(time.Millisecond)).Round(time.Millisecond)
	}
	return finding{
		key: at(streams.AlertSlow, e.EndpointID), value: e.Recent.P95Ms, threshold: SlowAbove * timeout,
		raise: e.Recent.Attempts >= EnoughAttempts && e.Recent.P95Ms > SlowAbove*timeout,
		why: func() (string, map[string]any) {
			return fmt.Sprintf("5%% of the attempts at %s take longer than %v of the %v that they have", e.EndpointID, p95(), e.Timeout),
				map[string]any{"p95Ms": e.Recent.P95Ms, "timeoutMs": timeout, "attempts": e.Recent.Attempts}
		},
		clear: few || e.Recent.P95Ms <= SlowClear*timeout,
		clean: func() string {
			if few {
				return fmt.Sprintf("hardly any attempts at %s within 15 minutes", e.EndpointID)
			}
			return fmt.Sprintf("95%% of the attempts at %s take at most %v", e.EndpointID, p95())
		},
	}
}

func breakerOpen(e *Endpoint, now time.Time) finding {
	raise := e.Breaker != nil || now.Sub(e.LastOpen) < BreakerHold
	return finding{
		key: at(streams.AlertBreakerOpen, e.EndpointID), raise: raise,
		why: func() (message string, details map[string]any) {
			message = fmt.Sprintf("the breaker of %s opened", e.EndpointID)
			if g := e.Breaker; g != nil {
				details = map[string]any{"state": g.State, "reason": g.Reason, "by": g.By}
				if g.Reason != "" {
					message += ": " + g.Reason
				}
			}
			return message, details
		},
		clear: !raise,
		clean: func() string { return fmt.Sprintf("the breaker of %s is closed", e.EndpointID) },
	}
}

// worst is how many endpoints are named.
const worst = 5

func deadLetters(total uint64, counts map[streams.EndpointID]uint64) finding {
	return finding{
		key: streams.AlertKey{Rule: streams.AlertDeadLetters}, value: float64(total), threshold: LettersAbove,
		raise: total > LettersAbove,
		why: func() (string, map[string]any) {
			ids := slices.SortedFunc(maps.Keys(counts), func(a, b streams.EndpointID) int {
				return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a.String(), b.String()))
			})
			most := make(map[string]uint64)
			for _, id := range ids[:min(len(ids), worst)] {
				most[id.String()] = counts[id]
			}
			message := fmt.Sprintf("%d dead letters wait for a decision", total)
			if len(ids) > 0 {
				message += fmt.Sprintf(", %d of them at %s", counts[ids[0]], ids[0])
			}
			return message, map[string]any{"count": total, "most": most}
		},
		clear: total <= LettersClear,
		clean: func() string { return fmt.Sprintf("%d dead letters are left", total) },
	}
}
