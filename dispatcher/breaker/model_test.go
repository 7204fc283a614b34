package breaker_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"backstop/dispatcher/breaker"
	"backstop/streams/manifest"
)

// model says in the plainest way what a breaker has to do.
type model struct {
	policy    manifest.BreakerPolicy
	state     breaker.State
	until     time.Time
	failures  int // in a row
	admitted  int // half-open: under way or counted
	successes int // half-open
	epoch     int
	changes   []breaker.Change
}

func (m *model) become(to breaker.State, until time.Time, cause breaker.Cause) {
	from := m.state
	m.epoch++
	m.state, m.until, m.admitted, m.successes = to, until, 0, 0
	m.changes = append(m.changes, breaker.Change{ID: id, From: from, To: to, Until: until, Cause: cause, Failures: m.failures})
}

func (m *model) shown() breaker.State {
	if m.state == breaker.Open && !m.until.IsZero() && !time.Now().Before(m.until) {
		return breaker.HalfOpen
	}
	return m.state
}

func (m *model) allow() error {
	if m.state == breaker.Open {
		if m.shown() == breaker.Open {
			return breaker.ErrOpen
		}
		m.become(breaker.HalfOpen, time.Time{}, breaker.CauseElapsed)
	}
	if m.state == breaker.HalfOpen {
		if m.admitted == m.policy.SuccessThreshold {
			return breaker.ErrBusy
		}
		m.admitted++
	}
	return nil
}

func (m *model) settle(epoch int, r breaker.Result) {
	if epoch != m.epoch {
		return
	}
	open := time.Now().Add(m.policy.RecoveryTimeout)
	switch r {
	case breaker.Success:
		m.failures = 0
		if m.state == breaker.HalfOpen {
			if m.successes++; m.successes == m.policy.SuccessThreshold {
				m.become(breaker.Closed, time.Time{}, breaker.CauseRecovered)
			}
		}
	case breaker.Failure:
		m.failures++
		if m.state == breaker.HalfOpen || m.failures >= m.policy.FailureThreshold {
			m.become(breaker.Open, open, breaker.CauseFailures)
		}
	default:
		if m.state == breaker.HalfOpen {
			m.admitted--
		}
	}
}

func (m *model) trip(until time.Time) {
	if m.state == breaker.Open && m.until.Equal(until) {
		return
	}
	m.become(breaker.Open, until, breaker.CauseRemote)
}

func (m *model) reset() {
	m.failures = 0
	if m.state == breaker.Closed {
		m.epoch++ // what is under way no longer counts
		return
	}
	m.become(breaker.Closed, time.Time{}, breaker.CauseOperator)
}

// Whatever happens in whatever order, the breaker does what the model does.
func TestBreakerIsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { inBubble(t, func() { compare(rt) }) })
}

// inBubble runs f with a clock of its own. rapid ends a case by a panic, which
// has to reach the goroutine that it started the case on.
func inBubble(t *testing.T, f func()) {
	t.Helper()
	var ended any
	synctest.Test(t, func(*testing.T) {
		defer func() { ended = recover() }()
		f()
	})
	if ended != nil {
		panic(ended)
	}
}

func compare(t *rapid.T) {
	type attempt struct {
		done  func(breaker.Result)
		epoch int
	}
	m := &model{policy: manifest.BreakerPolicy{
		FailureThreshold: rapid.IntRange(1, 4).Draw(t, "failureThreshold"),
		RecoveryTimeout:  10 * time.Second,
		SuccessThreshold: rapid.IntRange(1, 3).Draw(t, "successThreshold"),
	}}
	heard := &recorder{}
	set := breaker.NewSet(heard.record)
	b := set.Get(id, m.policy)
	var underWay []attempt
	result := rapid.SampledFrom([]breaker.Result{breaker.Ignored, breaker.Success, breaker.Failure, breaker.Failure})
	t.Repeat(map[string]func(*rapid.T){
		"": func(t *rapid.T) {
			if state, until := b.State(); state != m.shown() || (state == breaker.Open && !until.Equal(m.until)) {
				t.Fatalf("%v until %v, want %v until %v", state, until, m.shown(), m.until)
			}
			if !slices.Equal(heard.changes, m.changes) {
				t.Fatalf("changes %+v, want %+v", heard.changes, m.changes)
			}
			time.Sleep(time.Millisecond)
		},
		"allow": func(t *rapid.T) {
			want := m.allow()
			done, err := b.Allow()
			if !errors.Is(err, want) {
				t.Fatalf("Allow: %v, want %v", err, want)
			}
			if err == nil {
				underWay = append(underWay, attempt{done, m.epoch})
			}
		},
		"settle": func(t *rapid.T) {
			if len(underWay) == 0 {
				t.Skip("nothing under way")
			}
			i := rapid.IntRange(0, len(underWay)-1).Draw(t, "which")
			r := result.Draw(t, "result")
			m.settle(underWay[i].epoch, r)
			underWay[i].done(r)
			if rapid.Bool().Draw(t, "twice") {
				underWay[i].done(breaker.Failure)
			}
			underWay = slices.Delete(underWay, i, i+1)
		},
		"wait": func(t *rapid.T) {
			time.Sleep(time.Duration(rapid.IntRange(1, 12).Draw(t, "seconds")) * time.Second)
		},
		"trip": func(t *rapid.T) {
			var until time.Time
			if s := rapid.IntRange(-1, 20).Draw(t, "seconds"); s != 0 {
				until = time.Now().Add(time.Duration(s) * time.Second)
			}
			m.trip(until)
			b.Trip(until, breaker.CauseRemote)
		},
		"reset": func(*rapid.T) {
			m.reset()
			b.Reset(breaker.CauseOperator)
		},
		"policy": func(t *rapid.T) {
			m.policy.FailureThreshold = rapid.IntRange(1, 4).Draw(t, "failureThreshold")
			m.policy.RecoveryTimeout = time.Duration(rapid.IntRange(1, 10).Draw(t, "recovery")) * time.Second
			set.Get(id, m.policy)
		},
	})
}
