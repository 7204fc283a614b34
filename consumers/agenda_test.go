package consumers

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"backstop/streams"
)

// sleepInBubble moves the clock of a synctest bubble, and waits for nothing.
func sleepInBubble(d time.Duration) { <-time.After(d) }

// diary notes who took a turn when, and how many did at once.
type diary struct {
	mu         sync.Mutex
	taken      map[string][]time.Time
	now, most  int
	twice      string // an app that took two turns at once
	inProgress map[string]bool
}

func newDiary() *diary {
	return &diary{taken: make(map[string][]time.Time), inProgress: make(map[string]bool)}
}

func (d *diary) begin(app string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inProgress[app] {
		d.twice = app
	}
	d.inProgress[app] = true
	d.taken[app] = append(d.taken[app], time.Now())
	d.now++
	d.most = max(d.most, d.now)
}

func (d *diary) end(app string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now--
	d.inProgress[app] = false
}

// TestTenThousandAppsAreSpread: with the pace of the checks, 10,000 healthy
// apps are checked once an interval each, at no moment many of them.
func TestTenThousandAppsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const apps, most = 10_000, 128
		p := pace{5 * time.Minute}
		a, d := newAgenda(), newDiary()
		started := time.Now()
		for i := range apps {
			a.sooner(fmt.Sprint("app", i), p.soon(started, apps))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.run(ctx, most, func(_ context.Context, app string) time.Time {
				d.begin(app)
				defer d.end(app)
				began := time.Now()
				sleepInBubble(300 * time.Millisecond)
				return p.regular(app, began)
			})
		}()
		sleepInBubble(30 * time.Minute)
		cancel()
		<-done
		perSecond := make(map[int64]int)
		for app, times := range d.taken {
			// The first comes whenever; from the second on, one an interval.
			if n := len(times); n < 6 || n > 8 {
				t.Errorf("%s was checked %d times in six intervals", app, n)
			}
			for i, at := range times {
				perSecond[int64(at.Sub(started)/time.Second)]++
				if gap := at.Sub(times[max(i-1, 0)]); i > 1 && (gap < p.interval*9/10 || gap > p.interval*11/10) {
					t.Errorf("%s was checked again after %v", app, gap)
				}
			}
		}
		if len(d.taken) != apps || d.twice != "" {
			t.Errorf("%d of %d apps were checked; %q twice at once", len(d.taken), apps, d.twice)
		}
		// 33 a second are due, and those of the beginning on top of it.
		if busiest := slices.Max(values(perSecond)); busiest > 150 {
			t.Errorf("%d checks within one second", busiest)
		}
		if d.most > most/2 {
			t.Errorf("%d checks at once", d.most)
		}
	})
}

func values(m map[int64]int) (all []int) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// TestHangingAppsHoldNoMoreThanTheSlots: everybody hangs, and the number of
// checks at once is bounded; those that wait come in the order of their turns.
func TestHangingAppsHoldNoMoreThanTheSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const apps, most = 1000, 16
		p := pace{5 * time.Minute}
		a, d := newAgenda(), newDiary()
		for i := range apps {
			a.sooner(fmt.Sprint("app", i), p.soon(time.Now(), apps))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.run(ctx, most, func(_ context.Context, app string) time.Time {
				d.begin(app)
				defer d.end(app)
				sleepInBubble(5 * time.Second)
				return p.sick(time.Now())
			})
		}()
		sleepInBubble(30 * time.Minute)
		cancel()
		<-done
		if d.most != most {
			t.Errorf("%d checks at once, want %d", d.most, most)
		}
		least, highest := 1<<30, 0
		for _, times := range d.taken {
			least, highest = min(least, len(times)), max(highest, len(times))
		}
		if len(d.taken) != apps || highest-least > 1 {
			t.Errorf("%d of %d apps were checked, between %d and %d times: want the same for all", len(d.taken), apps, least, highest)
		}
	})
}

func TestAgenda(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAgenda()
		start := time.Now()
		at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
		expect := func(app string, seconds int, why string) {
			t.Helper()
			got, ok := a.next(t.Context())
			if !ok || got != app || !time.Now().Equal(at(seconds)) {
				t.Errorf("%s at %v, want %s at %v: %s", got, time.Since(start), app, time.Duration(seconds)*time.Second, why)
			}
		}
		a.sooner("b", at(20))
		a.sooner("a", at(10))
		a.sooner("b", at(30))
		expect("a", 10, "the earliest first")
		expect("b", 20, "a later turn doesn't replace an earlier one")
		a.over("b", at(50))
		a.over("a", at(60))
		a.sooner("a", at(40))
		expect("a", 40, "an earlier one does")
		a.sooner("a", at(45))
		a.sooner("a", at(47))
		a.over("a", at(70))
		expect("a", 45, "asked for while the turn was being taken")
		a.sooner("a", at(46))
		a.over("a", time.Time{})
		expect("a", 46, "also if it would have been the last")
		a.over("a", time.Time{})
		expect("b", 50, "no turn without being asked for")

		woken := make(chan string)
		go func() {
			app, _ := a.next(t.Context())
			woken <- app
		}()
		synctest.Wait()
		a.sooner("new", time.Now())
		if got := <-woken; got != "new" || !time.Now().Equal(at(50)) {
			t.Errorf("%q at %v: a new turn has to be noticed at once", got, time.Since(start))
		}

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if app, ok := a.next(ctx); ok {
			t.Errorf("%q has a turn after the end", app)
		}
	})
}

func TestPace(t *testing.T) {
	for _, tc := range []struct {
		interval, sick time.Duration
		why            string
	}{
		{5 * time.Minute, 30 * time.Second, "a tenth"},
		{150 * time.Second, 15 * time.Second, "a tenth"},
		{time.Hour, 30 * time.Second, "at most 30 s"},
		{time.Minute, 10 * time.Second, "at least 10 s"},
		{2 * time.Second, 2 * time.Second, "but never rarer than the healthy"},
	} {
		p := pace{tc.interval}
		if got := p.sickEvery(); got != tc.sick {
			t.Errorf("an interval of %v: sick apps every %v, want %v: %s", tc.interval, got, tc.sick, tc.why)
		}
		now := time.Now()
		for i := range 100 {
			app := fmt.Sprint("app", i)
			at := p.regular(app, now)
			if wait := at.Sub(now); wait <= 0 || wait > tc.interval+tc.interval/20 {
				t.Errorf("interval %v: the next check comes after %v", tc.interval, wait)
			}
			// The place in the interval is the app's, whoever asks and when.
			later := p.regular(app, now.Add(3*tc.interval)).Add(-3 * tc.interval)
			if d := later.Sub(at).Abs(); d > tc.interval/20 {
				t.Errorf("interval %v: two checks of one app are %v off their place", tc.interval, d)
			}
		}
	}
	if got := (pace{time.Millisecond}).soon(time.Time{}, 10_000); got.Sub(time.Time{}) > checkSoon {
		t.Errorf("a short interval is caught up with after %v", got)
	}
}

func TestRecovers(t *testing.T) {
	for _, tc := range []struct {
		before, now streams.HealthState
		want        bool
		why         string
	}{
		{streams.Unhealthy, streams.Healthy, true, "it was down, and answers"},
		{streams.Degraded, streams.Healthy, true, "it was slow, and is not"},
		{streams.Healthy, streams.Healthy, false, "its health says nothing of why the breaker opened"},
		{streams.HealthUnknown, streams.Healthy, false, "nobody knew that it was down"},
		{"", streams.Healthy, false, "a first check"},
		{streams.Unhealthy, streams.Degraded, false, "not well yet"},
		{streams.Healthy, streams.Unhealthy, false, "it goes down"},
	} {
		if got := recovers(tc.before, tc.now); got != tc.want {
			t.Errorf("%q, then %q: %v, want %v: %s", tc.before, tc.now, got, tc.want, tc.why)
		}
	}
}

// A breaker whose wait is over by itself is no reason to check its app often:
// without traffic it stays in the bucket.
func TestWaitingBreakers(t *testing.T) {
	h := newHealthChecks(nil, HealthConfig{Interval: time.Minute}, nil)
	id := streams.EndpointID{Capability: "analytics", App: "quiz"}
	now := time.Now()
	gate := func(s streams.GateState, until time.Time) *streams.Gate { return &streams.Gate{State: s, Until: until} }
	for _, tc := range []struct {
		why  string
		gate *streams.Gate
		want int
	}{
		{"it waits", gate(streams.GateOpen, now.Add(time.Minute)), 1},
		{"it failed its probe, and waits again", gate(streams.GateOpen, now.Add(time.Hour)), 1},
		{"its wait is over", gate(streams.GateOpen, now.Add(-time.Second)), 0},
		{"it lets probes through", gate(streams.GateHalfOpen, time.Time{}), 0},
		{"it waits", gate(streams.GateOpen, now.Add(time.Minute)), 1},
		{"a person opened it", gate(streams.GateForced, time.Time{}), 0},
		{"it is closed", nil, 0},
	} {
		h.gate(id, tc.gate)
		if got := h.waiting("quiz", now); len(got) != tc.want {
			t.Errorf("%s: %v wait", tc.why, got)
		}
	}
	if len(h.open) != 0 {
		t.Errorf("left: %v", h.open)
	}
}
