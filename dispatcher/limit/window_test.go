package limit_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"backstop/dispatcher/limit"
)

// app is a simulated one: so many requests are worked on at once, and the rest
// waits in the order of its coming.
type app struct {
	mu      sync.Mutex
	places  chan struct{}
	service func() time.Duration // how long one is worked on
	fails   bool
}

func newApp(places int, service func() time.Duration) *app {
	return &app{places: make(chan struct{}, places), service: service}
}

// become changes the app from now on; what waits there still does so.
func (a *app) become(places int, service func() time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.places, a.service = make(chan struct{}, places), service
}

func (a *app) setFails(yes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fails = yes
}

func (a *app) serve() limit.Result {
	a.mu.Lock()
	places, takes, fails := a.places, a.service(), a.fails
	a.mu.Unlock()
	places <- struct{}{}
	defer func() { <-places }()
	time.Sleep(takes)
	if fails {
		return limit.Failure
	}
	return limit.Success
}

func always(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// span is what came of the events of some time.
type span struct {
	perSecond float64
	p50, p99  time.Duration
	window    float64 // on average
	most      int     // in flight
}

// traffic keeps a limiter's window full of events to an app, or sends them at
// a rate.
type traffic struct {
	l        *limit.Limiter
	a        *app
	mu       sync.Mutex
	inFlight int
	answered []time.Duration
	freed    chan struct{}
}

func newTraffic(concurrency int, a *app) *traffic {
	return &traffic{l: limit.NewSet().Get(endpoint(concurrency, 0, true)), a: a, freed: make(chan struct{}, 1)}
}

// send begins one event if the window has room.
func (tr *traffic) send() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.inFlight >= tr.l.Window() {
		return false
	}
	done, reason, _ := tr.l.Acquire(event)
	if reason != limit.None {
		return false
	}
	tr.inFlight++
	go func() {
		began := time.Now()
		result := tr.a.serve()
		tr.mu.Lock()
		defer tr.mu.Unlock()
		done(result)
		tr.inFlight--
		if result == limit.Success {
			tr.answered = append(tr.answered, time.Since(began))
		}
		select {
		case tr.freed <- struct{}{}:
		default:
		}
	}()
	return true
}

// saturate keeps the window full for some time, and tells of its end: the last
// share of it, from 0 to 1.
func (tr *traffic) saturate(d time.Duration, share float64) span {
	var s span
	begin := time.Now()
	from, until := begin.Add(time.Duration(float64(d)*(1-share))), begin.Add(d)
	looks, windows := 0, 0
	tick := time.NewTicker(max(d/10_000, time.Millisecond))
	defer tick.Stop()
	counting := false
	for time.Now().Before(until) {
		for tr.send() { // until there is no room
		}
		if !counting && !time.Now().Before(from) {
			counting = true
			tr.take()
		}
		if counting {
			looks++
			windows += tr.l.Window()
			tr.mu.Lock()
			s.most = max(s.most, tr.inFlight)
			tr.mu.Unlock()
		}
		select {
		case <-tr.freed:
		case <-tick.C:
		}
	}
	latencies := tr.take()
	s.window = float64(windows) / float64(looks)
	s.perSecond = float64(len(latencies)) / until.Sub(from).Seconds()
	if len(latencies) > 0 {
		s.p50, s.p99 = latencies[len(latencies)/2], latencies[len(latencies)*99/100]
	}
	return s
}

// take returns the latencies since the last time, sorted.
func (tr *traffic) take() []time.Duration {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	taken := tr.answered
	tr.answered = nil
	slices.Sort(taken)
	return taken
}

// drain waits until nothing is in flight.
func (tr *traffic) drain() {
	for {
		tr.mu.Lock()
		n := tr.inFlight
		tr.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(time.Second)
	}
}

// simulate runs a test with an app that works on so many at once. No real time passes.
func simulate(t *testing.T, concurrency, places int, service func() time.Duration, test func(tr *traffic)) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		tr := newTraffic(concurrency, newApp(places, service))
		test(tr)
		tr.drain()
	})
}

// seeded returns a source of chance that is the same in every run.
func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// exponential is as often short as servers' times are said to be.
func exponential(mean time.Duration) func() time.Duration {
	chance := seeded()
	return func() time.Duration { return time.Duration(chance.ExpFloat64() * float64(mean)) }
}

// sometimes is slow once in so many.
func sometimes(fast, slow time.Duration, share float64) func() time.Duration {
	chance := seeded()
	return func() time.Duration {
		if chance.Float64() < share {
			return slow
		}
		return fast
	}
}

// What an app can take is what it gets, and what it would only queue it isn't
// given, but for about as much again.
func TestWindowFindsWhatAnAppTakes(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		reason      string
		concurrency int
		places      int
		service     func() time.Duration
		// mean is the service's, and bound how long an answer may take (the
		// median), in means; 0 for whatever it takes.
		mean  time.Duration
		bound float64
		share float64 // of what the app could do at most, or the ceiling allows
	}{
		{"10 at once, 50 ms each", 256, 10, always(50 * ms), 50 * ms, 2, 0.95},
		{"10 at once, 2 s each", 256, 10, always(2 * time.Second), 2 * time.Second, 2, 0.95},
		{"1 at once, 100 ms", 256, 1, always(100 * ms), 100 * ms, 5, 0.95},
		{"50 at once, 50 ms", 512, 50, always(50 * ms), 50 * ms, 2, 0.95},
		{"10 at once, times that vary", 256, 10, exponential(100 * ms), 100 * ms, 3, 0.80},
		{"10 at once, one in a hundred takes 2 s", 256, 10, sometimes(50*ms, 2*time.Second, 0.01), 70 * ms, 3, 0.70},
		{"fast, as many as come", 64, 1024, always(2 * ms), 2 * ms, 1.1, 0.95},
		{"5 s each, as many as come", 64, 1024, always(5 * time.Second), 5 * time.Second, 1.1, 0.95},
		{"5 s each, and the default concurrency", 32, 1024, always(5 * time.Second), 5 * time.Second, 1.1, 0.95},
		{"times that vary, as many as come", 64, 1024, exponential(100 * ms), 100 * ms, 1.1, 0.85},
		{"half fast and half slow, as many as come", 64, 1024, sometimes(2*ms, 200*ms, 0.5), 101 * ms, 0, 0.80},
		{"one in twenty slow, as many as come", 64, 1024, sometimes(5*ms, 500*ms, 0.05), 30 * ms, 0, 0.85},
	}
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			simulate(t, test.concurrency, test.places, test.service, func(tr *traffic) {
				got := tr.saturate(300*test.mean, 0.7)
				best := float64(min(test.places, test.concurrency)) / test.mean.Seconds()
				t.Logf("%.1f/s of %.1f (%.2f), p50 %v, p99 %v, window %.1f", got.perSecond, best, got.perSecond/best, got.p50, got.p99, got.window)
				if got.perSecond < test.share*best {
					t.Errorf("%.1f/s, want %.2f of %.1f", got.perSecond, test.share, best)
				}
				if bound := time.Duration(test.bound * float64(test.mean)); bound > 0 && got.p50 > bound {
					t.Errorf("p50 %v, want at most %v", got.p50, bound)
				}
			})
		})
	}
}

// Answers that take long and always do reach the ceiling as soon as others do,
// counted in answers.
func TestWindowOfSlowAppReachesTheCeiling(t *testing.T) {
	simulate(t, 256, 1024, always(5*time.Second), func(tr *traffic) {
		tr.saturate(26*time.Second, 1) // 8, 16, 32, 64, 128, 256
		if w := tr.l.Window(); w != 256 {
			t.Errorf("window %d after five answers' time, want 256", w)
		}
	})
}

// An app that can take less than before gets less, and more again when it is
// what it was.
func TestWindowFollowsWhatBecomesOfAnApp(t *testing.T) {
	const service = 100 * time.Millisecond
	simulate(t, 256, 20, always(service), func(tr *traffic) {
		well := tr.saturate(60*time.Second, 0.8)
		tr.a.become(2, always(service))
		tr.saturate(20*time.Second, 0.5) // to find out
		ill := tr.saturate(60*time.Second, 0.8)
		if ill.perSecond < 0.9*20 || ill.p50 > 3*service {
			t.Errorf("with 2 places: %.1f/s of 20, p50 %v", ill.perSecond, ill.p50)
		}
		tr.a.become(20, always(service))
		tr.saturate(5*time.Second, 0.5)
		again := tr.saturate(30*time.Second, 1)
		if again.perSecond < 0.95*well.perSecond {
			t.Errorf("%.1f/s after 5 s to recover, %.1f before", again.perSecond, well.perSecond)
		}
		t.Logf("well %+v, ill %+v, again %+v", well, ill, again)
	})
}

// Answers that become slower by themselves are no queue: the window comes back
// to the ceiling, with another base.
func TestWindowTakesAnotherBase(t *testing.T) {
	simulate(t, 64, 1024, always(20*time.Millisecond), func(tr *traffic) {
		tr.saturate(20*time.Second, 1)
		for _, service := range []time.Duration{2 * time.Second, 50 * time.Millisecond, 5 * time.Second} {
			tr.a.become(1024, always(service))
			tr.saturate(20*service, 0.5)
			if w := tr.l.Window(); w != 64 {
				t.Errorf("window %d when answers take %v, want 64", w, service)
			}
		}
	})
}

// A base that was learnt while others kept the app busy is mended when they
// have gone, even under load that never ends.
func TestWindowProbesItsBase(t *testing.T) {
	const service = 50 * time.Millisecond
	simulate(t, 256, 10, always(5*service), func(tr *traffic) {
		tr.saturate(10*time.Second, 1)
		tr.a.become(10, always(service))
		tr.saturate(60*time.Second, 1)
		got := tr.saturate(60*time.Second, 1)
		if got.p50 > 2*service || got.perSecond < 0.95*200 {
			t.Errorf("p50 %v, %.1f/s of 200", got.p50, got.perSecond)
		}
	})
}

// A window that isn't used doesn't grow, however well all goes.
func TestUnusedWindowDoesNotGrow(t *testing.T) {
	simulate(t, 256, 1024, always(50*time.Millisecond), func(tr *traffic) {
		for range 1000 {
			tr.send()
			tr.send()
			time.Sleep(60 * time.Millisecond)
		}
		if w := tr.l.Window(); w != 8 {
			t.Errorf("window %d with two in flight, want the 8 of the beginning", w)
		}
		// Nor does an app that answers slowly by itself lose it.
		tr.a.become(1024, always(500*time.Millisecond))
		for range 1000 {
			tr.send()
			time.Sleep(400 * time.Millisecond)
		}
		if w := tr.l.Window(); w != 8 {
			t.Errorf("window %d after slow answers to few, want 8", w)
		}
	})
}

// An app that comes back after failures is asked by one event, and by more as
// it shows that it can.
func TestRecoveringAppIsNotFlooded(t *testing.T) {
	const service = 100 * time.Millisecond
	simulate(t, 256, 1024, always(service), func(tr *traffic) {
		tr.saturate(20*time.Second, 1)
		if w := tr.l.Window(); w != 256 {
			t.Fatalf("window %d, want 256", w)
		}
		tr.a.setFails(true)
		tr.saturate(time.Second, 1)
		tr.l.StartSmall() // the breaker has opened
		tr.drain()
		tr.a.setFails(false)
		if got := tr.saturate(time.Second, 1); got.most > 8 {
			t.Errorf("%d in flight within ten answers' time of the recovery, want at most 8", got.most)
		}
		if got := tr.saturate(5*time.Second, 1); got.most < 256 {
			t.Errorf("%d in flight at most after sixty answers' time, want 256", got.most)
		}
	})
}

// A share of failures that has nothing to do with load costs no more of the
// window than it did before it knew of latency.
func TestWindowBearsSomeFailures(t *testing.T) {
	for _, test := range []struct {
		share float64
		least float64 // window on average
	}{{0.01, 40}, {0.1, 5}} {
		synctest.Test(t, func(t *testing.T) {
			chance := seeded()
			l := limit.NewSet().Get(endpoint(64, 0, true))
			var windows float64
			const rounds = 500
			for range rounds {
				held := make([]func(limit.Result), l.Window())
				for i := range held {
					held[i], _, _ = l.Acquire(event)
				}
				time.Sleep(50 * time.Millisecond)
				for _, done := range held {
					r := limit.Success
					if chance.Float64() < test.share {
						r = limit.Failure
					}
					done(r)
				}
				windows += float64(l.Window())
			}
			if mean := windows / rounds; mean < test.least || math.IsNaN(mean) {
				t.Errorf("window %.1f on average with %.0f%% failures, want at least %.0f", mean, 100*test.share, test.least)
			}
		})
	}
}
