package limit_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"backstop/dispatcher/limit"
	"backstop/streams"
	"backstop/streams/manifest"
)

const (
	event = false
	call  = true
)

func endpoint(concurrency int, rate float64, async bool) manifest.Endpoint {
	return manifest.Endpoint{
		EndpointID:  streams.EndpointID{Capability: "analytics", App: "quiz"},
		Concurrency: concurrency, RateLimit: rate, Async: async,
	}
}

// fill acquires until it is refused, and returns what ends each and the reason.
func fill(l *limit.Limiter, kind bool) (held []func(limit.Result), reason limit.Reason) {
	for {
		done, reason, _ := l.Acquire(kind)
		if reason != limit.None {
			return held, reason
		}
		held = append(held, done)
	}
}

// round lets as many events as the window has room for, and at most n, end
// together with the same result.
func round(l *limit.Limiter, n int, r limit.Result) {
	held := make([]func(limit.Result), min(n, l.Window()))
	for i := range held {
		held[i], _, _ = l.Acquire(event)
	}
	time.Sleep(time.Millisecond)
	for _, done := range held {
		done(r)
	}
}

func TestConcurrency(t *testing.T) {
	tests := []struct {
		reason        string
		concurrency   int
		async         bool
		events, calls int // what fits, events first
	}{
		{"events may have all of an endpoint that is made for them", 10, true, 10, 0},
		{"half is kept for calls where events are not what it is for", 10, false, 5, 5},
		{"half of an odd number is rounded down", 5, false, 2, 3},
		{"one place is shared", 1, false, 1, 0},
		{"no concurrency means one", 0, true, 1, 0},
		{"a negative one too", -3, true, 1, 0},
	}
	for _, test := range tests {
		l := limit.NewSet().Get(endpoint(test.concurrency, 0, test.async))
		events, reason := fill(l, event)
		if len(events) != test.events || reason != limit.Saturated {
			t.Errorf("%s: %d events, then %d; want %d", test.reason, len(events), reason, test.events)
		}
		calls, reason := fill(l, call)
		if len(calls) != test.calls || reason != limit.Saturated {
			t.Errorf("%s: %d calls, then %d; want %d", test.reason, len(calls), reason, test.calls)
		}
		for _, done := range events {
			done(limit.Ignored)
			done(limit.Ignored) // a second time does nothing
		}
		if again, _ := fill(l, event); len(again) != test.events {
			t.Errorf("%s: %d events after the release, want %d", test.reason, len(again), test.events)
		}
	}
}

func TestCallsMayHaveEverything(t *testing.T) {
	l := limit.NewSet().Get(endpoint(6, 0, false))
	calls, _ := fill(l, call)
	if len(calls) != 6 {
		t.Errorf("%d calls, want 6", len(calls))
	}
	if w := l.Window(); w != 1 {
		t.Errorf("window %d beside 6 calls, want 1: never nothing, or nobody would look again", w)
	}
	calls[0](limit.Success)
	calls[1](limit.Success)
	if w := l.Window(); w != 2 {
		t.Errorf("window %d beside 4 calls of 6, want 2", w)
	}
}

func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limit.NewSet().Get(endpoint(100, 0, true))
		expect := func(want int, why string) {
			t.Helper()
			if got := l.Window(); got != want {
				t.Errorf("window %d, want %d: %s", got, want, why)
			}
		}
		expect(8, "of an endpoint of which nothing is known")
		round(l, 4, limit.Success)
		expect(8, "it was not used up")
		round(l, 8, limit.Success)
		expect(16, "doubled when all in flight were answered")
		for range 10 {
			round(l, 100, limit.Success)
		}
		expect(100, "up to the concurrency")
		round(l, 100, limit.Ignored)
		expect(100, "answers that say nothing")
		round(l, 1, limit.Failure)
		expect(50, "halved")
		round(l, 50, limit.PushBack)
		expect(25, "halved once by those that were sent together")
		round(l, 10, limit.Failure)
		expect(1, "but never nothing")
		round(l, 1, limit.Success)
		expect(2, "and it comes back")

		if w := limit.NewSet().Get(endpoint(3, 0, true)).Window(); w != 3 {
			t.Errorf("window %d of an endpoint that takes 3", w)
		}
		if w := limit.NewSet().Get(endpoint(10, 0, false)).Window(); w != 5 {
			t.Errorf("window %d of an endpoint that keeps 5 of 10 for calls", w)
		}
	})
}

// A dispatcher that keeps to the window holds few requests at an app that
// hangs, even when it was fast before.
func TestHangingAppHoldsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limit.NewSet().Get(endpoint(256, 0, true))
		for range 10 {
			round(l, 256, limit.Success)
		}
		if w := l.Window(); w != 256 {
			t.Fatalf("window %d at first, want 256", w)
		}
		var inFlight, begun atomic.Int64
		var wg sync.WaitGroup
		stop := time.Now().Add(10 * time.Minute)
		for time.Now().Before(stop) {
			for int(inFlight.Load()) < l.Window() {
				done, reason, _ := l.Acquire(event)
				if reason != limit.None {
					t.Fatalf("refused with %d in flight", inFlight.Load())
				}
				inFlight.Add(1)
				begun.Add(1)
				wg.Go(func() {
					time.Sleep(30 * time.Second) // the timeout
					done(limit.Failure)
					inFlight.Add(-1)
				})
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := inFlight.Load(); n > 1 {
			t.Errorf("%d in flight after 10 minutes, want 1", n)
		}
		if n := begun.Load(); n > 256+30 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
		wg.Wait()
	})
}

func TestRate(t *testing.T) {
	tests := []struct {
		rate        float64
		burst, most int // at once, and in the first ten seconds
	}{
		{0.5, 1, 6},
		{1, 1, 11},
		{5, 1, 51},
		{10, 1, 101},
		{25, 3, 253},
		{1000, 100, 10_100},
	}
	for _, test := range tests {
		synctest.Test(t, func(t *testing.T) {
			l := limit.NewSet().Get(endpoint(1_000_000, test.rate, true))
			if d := l.TokenDelay(); d != 0 {
				t.Errorf("%v/s: a token is there at first, but TokenDelay is %v", test.rate, d)
			}
			atOnce, reason := fill(l, event)
			if len(atOnce) != test.burst || reason != limit.RateLimited {
				t.Errorf("%v/s: %d at once, then %d; want %d", test.rate, len(atOnce), reason, test.burst)
			}
			total := len(atOnce)
			for stop := time.Now().Add(10 * time.Second); ; {
				_, reason, wait := l.Acquire(event)
				if reason == limit.None {
					total++
					continue
				}
				if wait <= 0 || wait != l.TokenDelay() || wait > time.Duration(float64(time.Second)/test.rate)+time.Nanosecond {
					t.Fatalf("%v/s: wait %v, TokenDelay %v", test.rate, wait, l.TokenDelay())
				}
				if time.Now().Add(wait).After(stop) {
					break
				}
				time.Sleep(wait)
				if d := l.TokenDelay(); d != 0 {
					t.Fatalf("%v/s: still %v to wait after the wait", test.rate, d)
				}
			}
			if total > test.most || total < test.most-1 {
				t.Errorf("%v/s: %d in ten seconds, want %d", test.rate, total, test.most)
			}
		})
	}
}

// A refusal for want of room costs no token.
func TestSaturatedTakesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limit.NewSet().Get(endpoint(1, 1, true))
		done, _, _ := l.Acquire(event)
		time.Sleep(time.Second)
		for range 5 {
			if _, reason, _ := l.Acquire(event); reason != limit.Saturated {
				t.Errorf("reason %d, want saturated", reason)
			}
		}
		done(limit.Ignored)
		if _, reason, _ := l.Acquire(event); reason != limit.None {
			t.Errorf("reason %d, want none", reason)
		}
	})
}

// A rate next to nothing has no overflow.
func TestTinyRate(t *testing.T) {
	l := limit.NewSet().Get(endpoint(5, 1e-15, true))
	fill(l, event)
	if d := l.TokenDelay(); d != 24*time.Hour {
		t.Errorf("delay %v, want a day", d)
	}
}

func TestReconfigure(t *testing.T) {
	set := limit.NewSet()
	l := set.Get(endpoint(10, 0, true))
	round(l, 8, limit.Success)
	inFlight, _ := fill(l, event)

	if set.Get(endpoint(4, 0, true)) != l {
		t.Fatal("another limiter for the same endpoint")
	}
	if w := l.Window(); w != 4 {
		t.Errorf("window %d, want 4", w)
	}
	for _, done := range inFlight[:6] {
		done(limit.Ignored)
	}
	if more, reason := fill(l, event); len(more) != 0 || reason != limit.Saturated {
		t.Errorf("%d beside the 4 that are left", len(more))
	}
	inFlight[6](limit.Ignored)
	if more, _ := fill(l, event); len(more) != 1 {
		t.Errorf("%d more after a release, want 1", len(more))
	}

	set.Get(endpoint(4, 0, false)) // half is for calls from now on
	if w := l.Window(); w != 2 {
		t.Errorf("window %d, want 2", w)
	}

	set.Get(endpoint(100, 10, true)) // a rate limit comes
	if more, reason := fill(l, event); len(more) != 1 || reason != limit.RateLimited {
		t.Errorf("%d then %d, want 1 then rate-limited", len(more), reason)
	}
	set.Get(endpoint(100, 1000, true)) // changes
	if d := l.TokenDelay(); d > time.Millisecond {
		t.Errorf("delay %v at 1,000/s", d)
	}
	set.Get(endpoint(100, 0, true)) // and goes
	if d := l.TokenDelay(); d != 0 {
		t.Errorf("delay %v without a limit", d)
	}

	set.Remove(endpoint(1, 0, true).EndpointID)
	if set.Get(endpoint(100, 0, true)) == l {
		t.Error("a removed limiter came back")
	}
	inFlight[7](limit.Success) // still may
}

// However many goroutines ask, there are never more in flight than may be.
func TestConcurrentUse(t *testing.T) {
	set := limit.NewSet()
	var inFlight, events, refused atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 2000 {
				l := set.Get(endpoint(6, 0, false))
				kind := (i+g)%2 == 0
				done, reason, _ := l.Acquire(kind)
				if reason != limit.None {
					refused.Add(1)
					continue
				}
				if n := inFlight.Add(1); n > 6 {
					t.Errorf("%d in flight", n)
				}
				if kind == event {
					if n := events.Add(1); n > 3 {
						t.Errorf("%d events in flight", n)
					}
				}
				runtime.Gosched() // others meet it held
				if kind == event {
					events.Add(-1)
				}
				inFlight.Add(-1)
				if i%10 == 0 {
					done(limit.Failure)
				} else {
					done(limit.Success)
				}
			}
		})
	}
	wg.Wait()
	if refused.Load() == 0 {
		t.Error("nothing was refused: the test tests nothing")
	}
}

func BenchmarkAcquire(b *testing.B) {
	set, ep := limit.NewSet(), endpoint(100, 0, true)
	b.ReportAllocs()
	for b.Loop() {
		l := set.Get(ep)
		done, reason, _ := l.Acquire(event)
		if reason != limit.None {
			b.Fatal(reason)
		}
		done(limit.Success)
	}
}

func TestHeld(t *testing.T) {
	set := limit.NewSet()
	open := func(app string, failures, events int) {
		ep := endpoint(100, 0, true)
		ep.App = app
		l := set.Get(ep)
		for range failures {
			done, _, _ := l.Acquire(event)
			done(limit.Failure)
		}
		for range events {
			l.Acquire(event)
		}
	}
	open("idle", 2, 0)   // its window is 2 of 100, and one was in flight at once
	open("first", 0, 8)  // 8, as of one that nothing is known of
	open("failed", 2, 2) // 2
	open("worse", 3, 1)  // 1
	open("little", 0, 3) // 8, which are more than twice what it has
	got := func(most int) (all []string) {
		for _, h := range set.Held(most) {
			all = append(all, fmt.Sprintf("%s %d/%d", h.App, h.Window, h.Ceiling))
		}
		return all
	}
	if want := []string{"worse 1/100", "failed 2/100", "first 8/100"}; !slices.Equal(got(10), want) {
		t.Errorf("held are %q, want %q", got(10), want)
	}
	if want := []string{"worse 1/100"}; !slices.Equal(got(1), want) {
		t.Errorf("the one held back the most is %q, want %q", got(1), want)
	}
}
