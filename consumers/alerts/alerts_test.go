package alerts

import (
	"strings"
	"testing"
	"time"

	"backstop/streams"
)

var (
	now  = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	quiz = streams.EndpointID{Capability: "analytics", App: "quiz"}
)

// healthy returns an endpoint about which there is nothing to say.
func healthy(change func(*Endpoint)) Endpoint {
	e := Endpoint{EndpointID: quiz, Timeout: time.Second}
	e.Hour.Judged, e.Hour.Succeeded = 1000, 1000
	e.Recent.Attempts, e.Recent.P95Ms = 1000, 100
	if change != nil {
		change(&e)
	}
	return e
}

func rate(judged, succeeded uint64) func(*Endpoint) {
	return func(e *Endpoint) { e.Hour.Judged, e.Hour.Succeeded = judged, succeeded }
}

func p95(attempts uint64, ms float64) func(*Endpoint) {
	return func(e *Endpoint) { e.Recent.Attempts, e.Recent.P95Ms = attempts, ms }
}

func gate(state streams.GateState) func(*Endpoint) {
	return func(e *Endpoint) { e.Breaker = &streams.Gate{State: state, Reason: "5 failures in a row", By: "r1"} }
}

func lastOpen(ago time.Duration) func(*Endpoint) {
	return func(e *Endpoint) { e.LastOpen = now.Add(-ago) }
}

// What each rule does with an alert that isn't raised, and with one that is.
func TestRules(t *testing.T) {
	const (
		nothing = "" // neither raises nor clears
		raises  = "raises"
		clears  = "clears"
	)
	for _, tc := range []struct {
		name   string
		rule   streams.AlertRule
		change func(*Endpoint)
		does   string
		why    string
	}{
		{"95%", streams.AlertSuccessRate, rate(1000, 950), nothing, "at the threshold is not below it"},
		{"94.9%", streams.AlertSuccessRate, rate(1000, 949), raises, "below the threshold"},
		{"96.9%", streams.AlertSuccessRate, rate(1000, 969), nothing, "between the thresholds all stays as it is"},
		{"97%", streams.AlertSuccessRate, rate(1000, 970), clears, "well above the threshold"},
		{"9 failures", streams.AlertSuccessRate, rate(9, 0), nothing, "too few to raise it, and too many to clear it"},
		{"10 failures", streams.AlertSuccessRate, rate(10, 0), raises, "enough"},
		{"1 failure of 10", streams.AlertSuccessRate, rate(10, 9), nothing, "one says little"},
		{"2 failures of 10", streams.AlertSuccessRate, rate(10, 8), raises, "two of ten say something"},
		{"4 failures left", streams.AlertSuccessRate, rate(4, 0), clears, "the others are more than an hour old"},
		{"no attempts", streams.AlertSuccessRate, rate(0, 0), clears, "nothing says that it fails"},
		{"800 of 1000 ms", streams.AlertSlow, p95(100, 800), nothing, "at the threshold is not above it"},
		{"801 of 1000 ms", streams.AlertSlow, p95(100, 801), raises, "above the threshold"},
		{"701 of 1000 ms", streams.AlertSlow, p95(100, 701), nothing, "between the thresholds"},
		{"700 of 1000 ms", streams.AlertSlow, p95(100, 700), clears, "well below"},
		{"9 slow ones", streams.AlertSlow, p95(9, 999), nothing, "one slow attempt would be their percentile"},
		{"4 slow ones left", streams.AlertSlow, p95(4, 999), clears, "hardly anything to go by"},
		{"open", streams.AlertBreakerOpen, gate(streams.GateOpen), raises, "it opened"},
		{"half-open", streams.AlertBreakerOpen, gate(streams.GateHalfOpen), raises, "it is not closed yet"},
		{"opened by hand", streams.AlertBreakerOpen, gate(streams.GateForced), raises, "whoever opened it may have forgotten"},
		{"closed a moment ago", streams.AlertBreakerOpen, lastOpen(29 * time.Second), raises, "it opened, and nobody looked in between"},
		{"closed for a while", streams.AlertBreakerOpen, lastOpen(30 * time.Second), clears, "it stays closed"},
		{"never open", streams.AlertBreakerOpen, nil, clears, "as after a restart"},
	} {
		t.Run(string(tc.rule)+" "+tc.name, func(t *testing.T) {
			f := Facts{Now: now, Endpoints: []Endpoint{healthy(tc.change)}}
			key := at(tc.rule, quiz)
			c := Evaluate(f, nil)
			if got := len(c.Raise) == 1 && c.Raise[0].AlertKey == key; got != (tc.does == raises) || len(c.Raise) > 1 || len(c.Clear) > 0 {
				t.Errorf("not raised: %+v, want that it %s: %s", c, tc.does, tc.why)
			}
			was := streams.Alert{AlertKey: key, Since: now.Add(-time.Hour)}
			c = Evaluate(f, map[streams.AlertKey]streams.Alert{key: was})
			if got := len(c.Clear) == 1 && c.Clear[0].AlertKey == key; got != (tc.does == clears) || len(c.Raise) > 0 {
				t.Errorf("raised: %+v, want that it %s: %s", c, tc.does, tc.why)
			}
			for _, a := range c.Clear {
				if !a.ClearedAt.Equal(now) || !a.Since.Equal(was.Since) || a.Message == "" {
					t.Errorf("cleared as %+v", a)
				}
			}
		})
	}
}

func TestDeadLettersCountTogether(t *testing.T) {
	key := streams.AlertKey{Rule: streams.AlertDeadLetters}
	shop := streams.EndpointID{Capability: "email", App: "shop"}
	for _, tc := range []struct {
		counts         map[streams.EndpointID]uint64
		raises, clears bool
		why            string
	}{
		{nil, false, true, "none"},
		{map[streams.EndpointID]uint64{quiz: 100}, false, false, "not more than 100, and not 80 yet"},
		{map[streams.EndpointID]uint64{quiz: 60, shop: 41}, true, false, "101 together"},
		{map[streams.EndpointID]uint64{quiz: 60, shop: 21}, false, false, "one too many to clear it"},
		{map[streams.EndpointID]uint64{quiz: 60, shop: 20}, false, true, "80"},
	} {
		f := Facts{Now: now, DeadLettersAt: tc.counts}
		for _, n := range tc.counts {
			f.DeadLetters += n
		}
		c := Evaluate(f, nil)
		if (len(c.Raise) == 1) != tc.raises {
			t.Errorf("%s: raised %+v", tc.why, c.Raise)
		}
		for _, a := range c.Raise {
			if !strings.Contains(a.Message, "101 dead letters") || !strings.Contains(a.Message, "60 of them at analytics/quiz") {
				t.Errorf("message %q names neither the count nor the worst", a.Message)
			}
		}
		if c := Evaluate(f, map[streams.AlertKey]streams.Alert{key: {AlertKey: key}}); (len(c.Clear) == 1) != tc.clears {
			t.Errorf("%s: cleared %+v", tc.why, c.Clear)
		}
	}
}

func TestAlertsOfEndpointsThatAreGoneAreCleared(t *testing.T) {
	key := at(streams.AlertSuccessRate, quiz)
	c := Evaluate(Facts{Now: now}, map[streams.AlertKey]streams.Alert{key: {AlertKey: key}})
	if len(c.Clear) != 1 || !strings.Contains(c.Clear[0].Message, "no manifest") {
		t.Errorf("%+v", c)
	}
}

func TestAHealthyFleetRaisesNothing(t *testing.T) {
	if c := Evaluate(Facts{Now: now, Endpoints: []Endpoint{healthy(nil)}}, nil); len(c.Raise)+len(c.Clear) > 0 {
		t.Errorf("%+v", c)
	}
}
