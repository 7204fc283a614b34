package health

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"backstop/dispatcher"
	"backstop/streams"
)

// letters are results and states in short.
var letters = map[rune]streams.HealthState{'h': streams.Healthy, 'd': streams.Degraded, 'u': streams.Unhealthy, '?': streams.HealthUnknown}

func short(s streams.HealthState) string {
	for letter, state := range letters {
		if s == state {
			return string(letter)
		}
	}
	return "-" // not checked yet
}

// follow returns the states after each of the results.
func follow(results string) string {
	var h streams.Health
	var b strings.Builder
	for _, r := range results {
		h = Next(h, Result{State: letters[r]}, time.Unix(1, 0))
		b.WriteString(short(h.State))
	}
	return b.String()
}

func TestHysteresis(t *testing.T) {
	for _, tc := range []struct{ results, states, why string }{
		{"h", "h", "the first good result is believed"},
		{"d", "d", "degraded as well: it answers"},
		{"u", "?", "one failure is not enough, not even at first"},
		{"uu", "?u", "two are"},
		{"uh", "?h", "a first failure that doesn't repeat"},
		{"huh", "hhh", "one failure among good ones"},
		{"huu", "hhu", "two failures in a row"},
		{"huhuhu", "hhhhhh", "every other one"},
		{"uuh", "?uu", "one success doesn't bring it back"},
		{"uuhh", "?uuh", "two do"},
		{"uuhuh", "?uuuu", "two, and in a row"},
		{"hdd", "hhd", "degraded by two in a row"},
		{"ddh", "ddd", "and back"},
		{"ddhh", "dddh", "by two in a row"},
		{"hud", "hhd", "two bad ones, of which the better counts"},
		{"hudu", "hhdd", "nor does one more failure make it unhealthy"},
		{"huduu", "hhddu", "but two do"},
		{"uudh", "?uud", "two better ones, of which the worse counts"},
		{"uudd", "?uud", "from unhealthy to degraded"},
		{"u?u", "??u", "a check that taught nothing is as if it had not been"},
		{"?", "-", "nothing is known, and nothing was learnt"},
	} {
		if got := follow(tc.results); got != tc.states {
			t.Errorf("%s → %s, want %s: %s", tc.results, got, tc.states, tc.why)
		}
	}
}

// TestHysteresisAgainstModel compares with the rule in the plainest words: two
// checks in a row on the same side of the state, or nothing happens.
func TestHysteresisAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rank := map[streams.HealthState]int{streams.Healthy: 0, streams.Degraded: 1, streams.Unhealthy: 2}
		var h streams.Health
		var seen []streams.HealthState
		failures := 0
		for i := range rapid.IntRange(1, 40).Draw(t, "checks") {
			r := rapid.SampledFrom([]streams.HealthState{streams.Healthy, streams.Degraded, streams.Unhealthy}).Draw(t, "result")
			before, at := h, time.Unix(int64(i+1), 0)
			h = Next(before, Result{State: r}, at)
			seen = append(seen, r)
			if failures++; r != streams.Unhealthy {
				failures = 0
			}
			lastTwo := seen[max(len(seen)-2, 0):]
			want := before.State
			from, known := rank[before.State]
			switch {
			case !known && r == streams.Unhealthy && !slices.Equal(lastTwo, []streams.HealthState{r, r}):
				want = streams.HealthUnknown
			case !known:
				want = r
			case len(lastTwo) == 2 && rank[lastTwo[0]] > from && rank[lastTwo[1]] > from:
				want = better(lastTwo[0], lastTwo[1])
			case len(lastTwo) == 2 && rank[lastTwo[0]] < from && rank[lastTwo[1]] < from:
				want = worse(lastTwo[0], lastTwo[1])
			}
			if h.State != want {
				t.Fatalf("%v made %s of %s, want %s", lastTwo, h.State, before.State, want)
			}
			if moved := h.State != before.State; moved != h.Since.Equal(at) {
				t.Fatalf("since %v after a check at %v that made %s of %s", h.Since, at, h.State, before.State)
			}
			if h.Failures != failures || h.Result != r || !h.CheckedAt.Equal(at) {
				t.Fatalf("after %v the entry says %+v", seen, h)
			}
		}
	})
}

func worse(a, b streams.HealthState) streams.HealthState {
	if a == streams.Unhealthy || b == streams.Healthy {
		return a
	}
	return b
}

func better(a, b streams.HealthState) streams.HealthState {
	if worse(a, b) == a {
		return b
	}
	return a
}

func TestNextKeepsWhatIsNotItsOwn(t *testing.T) {
	before := streams.Health{App: "quiz", State: streams.Healthy, Result: streams.Healthy, Since: time.Unix(1, 0), Metrics: streams.MetricsPresent, By: "r1", Revision: 7}
	r := Result{State: streams.Unhealthy, Status: 503, Duration: 1500 * time.Millisecond, Reason: dispatcher.ReasonStatus, Err: errors.New("the app answered 503 Service Unavailable")}
	want := before
	want.CheckedAt, want.Result, want.Status, want.DurationMs, want.Failures = time.Unix(9, 0), streams.Unhealthy, 503, 1500, 1
	want.Reason, want.Error = "status", "the app answered 503 Service Unavailable"
	if got := Next(before, r, time.Unix(9, 0)); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := Next(before, Result{State: streams.HealthUnknown, Err: errors.New("no network")}, time.Unix(9, 0)); got != before {
		t.Errorf("a check that taught nothing made %+v of %+v", got, before)
	}
}
