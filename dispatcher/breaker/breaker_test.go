package breaker_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"backstop/dispatcher/breaker"
	"backstop/streams"
	"backstop/streams/manifest"
)

var (
	id     = streams.EndpointID{Capability: "analytics", App: "quiz"}
	policy = manifest.BreakerPolicy{FailureThreshold: 5, RecoveryTimeout: time.Minute, SuccessThreshold: 3}
)

// recorder keeps the changes it hears of.
type recorder struct {
	mu      sync.Mutex
	changes []breaker.Change
}

func (r *recorder) record(c breaker.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, c)
}

// take returns what was heard since the last time, as "from>to cause".
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, c := range r.changes {
		all = append(all, fmt.Sprintf("%s>%s %s", c.From, c.To, c.Cause))
	}
	r.changes = nil
	return all
}

func (r *recorder) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := r.take(); !slices.Equal(got, want) {
		t.Errorf("changes %v, want %v", got, want)
	}
}

func newBreaker(p manifest.BreakerPolicy) (*breaker.Set, *breaker.Breaker, *recorder) {
	r := &recorder{}
	s := breaker.NewSet(r.record)
	return s, s.Get(id, p), r
}

// attempts makes n attempts one after the other, each with this result.
func attempts(t *testing.T, b *breaker.Breaker, n int, result breaker.Result) {
	t.Helper()
	for range n {
		allow(t, b)(result)
	}
}

func allow(t *testing.T, b *breaker.Breaker) func(breaker.Result) {
	t.Helper()
	done, err := b.Allow()
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	return done
}

func expectRefused(t *testing.T, b *breaker.Breaker, want error) {
	t.Helper()
	if done, err := b.Allow(); !errors.Is(err, want) || done != nil {
		t.Errorf("Allow: %v, want %v", err, want)
	}
}

func expectState(t *testing.T, b *breaker.Breaker, want breaker.State, until time.Time) {
	t.Helper()
	if state, u := b.State(); state != want || !u.Equal(until) {
		t.Errorf("%v until %v, want %v until %v", state, u, want, until)
	}
}

func TestOpensAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, heard := newBreaker(policy)
		attempts(t, b, 4, breaker.Failure)
		attempts(t, b, 1, breaker.Success) // starts the count again
		attempts(t, b, 4, breaker.Failure)
		attempts(t, b, 10, breaker.Ignored) // and this doesn't
		expectState(t, b, breaker.Closed, time.Time{})
		attempts(t, b, 1, breaker.Failure)

		opened := time.Now()
		expectState(t, b, breaker.Open, opened.Add(time.Minute))
		expectRefused(t, b, breaker.ErrOpen)
		heard.expect(t, "closed>open failures")

		time.Sleep(time.Minute - time.Nanosecond)
		expectState(t, b, breaker.Open, opened.Add(time.Minute))
		expectRefused(t, b, breaker.ErrOpen)
		time.Sleep(time.Nanosecond)
		expectState(t, b, breaker.HalfOpen, time.Time{})
		heard.expect(t) // State only looks

		// At most three at once.
		probes := []func(breaker.Result){allow(t, b), allow(t, b), allow(t, b)}
		expectRefused(t, b, breaker.ErrBusy)
		heard.expect(t, "open>half-open elapsed")
		probes[0](breaker.Success)
		probes[1](breaker.Success)
		expectState(t, b, breaker.HalfOpen, time.Time{})
		expectRefused(t, b, breaker.ErrBusy)
		probes[2](breaker.Success)
		expectState(t, b, breaker.Closed, time.Time{})
		heard.expect(t, "half-open>closed recovered")
	})
}

func TestHalfOpenFailureOpensAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, heard := newBreaker(policy)
		attempts(t, b, 5, breaker.Failure)
		time.Sleep(time.Minute)
		first, second := allow(t, b), allow(t, b)
		first(breaker.Success)
		second(breaker.Failure)
		expectState(t, b, breaker.Open, time.Now().Add(time.Minute))
		heard.expect(t, "closed>open failures", "open>half-open elapsed", "half-open>open failures")
	})
}

// A probe that says nothing about the app gives its place back. Otherwise
// three of them would leave the breaker half-open for ever.
func TestIgnoredProbesDoNotWedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, _ := newBreaker(policy)
		attempts(t, b, 5, breaker.Failure)
		time.Sleep(time.Minute)
		attempts(t, b, 10, breaker.Ignored)
		probes := []func(breaker.Result){allow(t, b), allow(t, b), allow(t, b)}
		expectRefused(t, b, breaker.ErrBusy)
		for _, done := range probes {
			done(breaker.Ignored)
		}
		expectState(t, b, breaker.HalfOpen, time.Time{})
		attempts(t, b, 3, breaker.Success)
		expectState(t, b, breaker.Closed, time.Time{})
	})
}

// What began before the breaker opened says nothing about the app afterwards.
func TestLateResultsDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, heard := newBreaker(policy)
		var late []func(breaker.Result)
		for range 20 {
			late = append(late, allow(t, b))
		}
		attempts(t, b, 5, breaker.Failure)
		time.Sleep(time.Minute)
		probe := allow(t, b)
		for _, done := range late[:10] {
			done(breaker.Success) // would close it
		}
		for _, done := range late[10:] {
			done(breaker.Failure) // would open it
		}
		expectState(t, b, breaker.HalfOpen, time.Time{})
		probe(breaker.Success)
		attempts(t, b, 2, breaker.Success)
		heard.expect(t, "closed>open failures", "open>half-open elapsed", "half-open>closed recovered")
	})
}

func TestDoneCountsOnce(t *testing.T) {
	_, b, _ := newBreaker(policy)
	done := allow(t, b)
	for range 10 {
		done(breaker.Failure)
	}
	expectState(t, b, breaker.Closed, time.Time{})
}

func TestTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, heard := newBreaker(policy)
		until := time.Now().Add(10 * time.Second)
		b.Trip(until, breaker.CauseRemote)
		b.Trip(until, breaker.CauseRemote) // says nothing new
		expectState(t, b, breaker.Open, until)
		heard.expect(t, "closed>open remote")
		time.Sleep(10 * time.Second)

		// Its probe fails: open for the policy's time, not the trip's.
		allow(t, b)(breaker.Failure)
		expectState(t, b, breaker.Open, time.Now().Add(time.Minute))
		heard.expect(t, "open>half-open elapsed", "half-open>open failures")

		// An operator opens it for good.
		b.Trip(time.Time{}, breaker.CauseOperator)
		heard.expect(t, "open>open operator")
		time.Sleep(1000 * time.Hour)
		expectState(t, b, breaker.Open, time.Time{})
		expectRefused(t, b, breaker.ErrOpen)
		b.Reset(breaker.CauseOperator)
		b.Reset(breaker.CauseOperator)
		heard.expect(t, "open>closed operator")
		attempts(t, b, 4, breaker.Failure)
		expectState(t, b, breaker.Closed, time.Time{})

		// While half-open, with every place taken.
		b.Trip(time.Now().Add(time.Second), breaker.CauseRemote)
		time.Sleep(time.Second)
		probes := []func(breaker.Result){allow(t, b), allow(t, b), allow(t, b)}
		b.Trip(time.Now().Add(time.Second), breaker.CauseRemote)
		for _, done := range probes {
			done(breaker.Success) // too late
		}
		expectRefused(t, b, breaker.ErrOpen)
		heard.expect(t, "closed>open remote", "open>half-open elapsed", "half-open>open remote")

		// A trip that another replica made and that is over by now means probes.
		b.Reset(breaker.CauseRemote)
		b.Trip(time.Now().Add(-time.Second), breaker.CauseRemote)
		expectState(t, b, breaker.HalfOpen, time.Time{})
		time.Sleep(time.Millisecond)
		attempts(t, b, 3, breaker.Success)
		expectState(t, b, breaker.Closed, time.Time{})
	})
}

func TestResetForgetsFailures(t *testing.T) {
	_, b, heard := newBreaker(policy)
	underWay := allow(t, b)
	attempts(t, b, 4, breaker.Failure)
	b.Reset(breaker.CauseRemote)
	underWay(breaker.Failure)
	attempts(t, b, 4, breaker.Failure)
	expectState(t, b, breaker.Closed, time.Time{})
	heard.expect(t) // it was closed all the time
}

func TestPolicyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set, b, heard := newBreaker(policy)
		get := func(failures int, recovery time.Duration, successes int) {
			t.Helper()
			again := set.Get(id, manifest.BreakerPolicy{FailureThreshold: failures, RecoveryTimeout: recovery, SuccessThreshold: successes})
			if again != b {
				t.Fatal("another breaker for the same endpoint")
			}
		}
		attempts(t, b, 2, breaker.Failure)
		get(3, time.Minute, 3)
		attempts(t, b, 1, breaker.Failure) // a lower threshold counts what was there
		until := time.Now().Add(time.Minute)
		expectState(t, b, breaker.Open, until)

		get(3, time.Second, 1) // open: stays so, for as long as it was going to
		expectState(t, b, breaker.Open, until)
		time.Sleep(time.Minute)
		allow(t, b)(breaker.Failure)
		expectState(t, b, breaker.Open, time.Now().Add(time.Second))
		time.Sleep(time.Second)

		probe := allow(t, b)
		get(3, time.Second, 2) // half-open: stays so
		expectState(t, b, breaker.HalfOpen, time.Time{})
		probe(breaker.Failure) // belongs to the old policy
		time.Sleep(time.Millisecond)
		attempts(t, b, 1, breaker.Success)
		expectState(t, b, breaker.HalfOpen, time.Time{})
		attempts(t, b, 1, breaker.Success)
		expectState(t, b, breaker.Closed, time.Time{})
		heard.expect(t, "closed>open failures", "open>half-open elapsed", "half-open>open failures",
			"open>half-open elapsed", "half-open>closed recovered")

		get(100, time.Second, 7) // closed: stays so
		attempts(t, b, 99, breaker.Failure)
		expectState(t, b, breaker.Closed, time.Time{})
	})
}

// The platform's values stand in for what a policy leaves open.
func TestZeroPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, _ := newBreaker(manifest.BreakerPolicy{})
		attempts(t, b, 5, breaker.Failure)
		expectState(t, b, breaker.Open, time.Now().Add(time.Minute))
		time.Sleep(time.Minute)
		attempts(t, b, 2, breaker.Success)
		expectState(t, b, breaker.HalfOpen, time.Time{})
		attempts(t, b, 1, breaker.Success)
		expectState(t, b, breaker.Closed, time.Time{})
	})
}

func TestChangeTellsTheFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b, heard := newBreaker(policy)
		attempts(t, b, 5, breaker.Failure)
		opened := time.Now()
		time.Sleep(time.Minute)
		attempts(t, b, 1, breaker.Failure)
		want := []breaker.Change{
			{ID: id, From: breaker.Closed, To: breaker.Open, Until: opened.Add(time.Minute), Cause: breaker.CauseFailures, Failures: 5},
			{ID: id, From: breaker.Open, To: breaker.HalfOpen, Cause: breaker.CauseElapsed, Failures: 5},
			{ID: id, From: breaker.HalfOpen, To: breaker.Open, Until: opened.Add(2 * time.Minute), Cause: breaker.CauseFailures, Failures: 6},
		}
		if !slices.Equal(heard.changes, want) {
			t.Errorf("changes %+v, want %+v", heard.changes, want)
		}
	})
}

// The listener may do with the breaker what it likes, and what that changes is
// reported after what caused it.
func TestListenerMayUseTheBreaker(t *testing.T) {
	var set *breaker.Set
	var heard []string
	set = breaker.NewSet(func(c breaker.Change) {
		b := set.Get(c.ID, policy)
		state, _ := b.State()
		heard = append(heard, fmt.Sprintf("%s>%s now %s", c.From, c.To, state))
		if c.To == breaker.Open {
			b.Reset(breaker.CauseOperator)
		}
	})
	attempts(t, set.Get(id, policy), 5, breaker.Failure)
	if want := []string{"closed>open now open", "open>closed now closed"}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
}

func TestListenerThatPanics(t *testing.T) {
	calls := 0
	set := breaker.NewSet(func(breaker.Change) {
		if calls++; calls == 1 {
			panic("listener")
		}
	})
	b := set.Get(id, policy)
	func() {
		defer func() { _ = recover() }()
		b.Trip(time.Time{}, breaker.CauseOperator)
	}()
	b.Reset(breaker.CauseOperator) // would hang, or report nothing
	if calls != 2 {
		t.Errorf("%d reports, want 2", calls)
	}
}

func TestSet(t *testing.T) {
	heard := &recorder{}
	set := breaker.NewSet(heard.record)
	other := streams.EndpointID{Capability: "email", App: "quiz"}
	a, b := set.Get(id, policy), set.Get(other, policy)
	a.Trip(time.Time{}, breaker.CauseOperator)
	expectState(t, b, breaker.Closed, time.Time{})
	found := map[streams.EndpointID]*breaker.Breaker{}
	set.Each(func(id streams.EndpointID, b *breaker.Breaker) {
		set.Remove(id)
		found[id] = b
	})
	if len(found) != 2 || found[id] != a || found[other] != b {
		t.Errorf("Each: %v", found)
	}
	heard.expect(t, "closed>open operator")
	a.Reset(breaker.CauseOperator) // removed: nobody wants to know
	heard.expect(t)
	if again := set.Get(id, policy); again == a {
		t.Error("a removed breaker came back")
	}
	set.Remove(streams.EndpointID{App: "unknown"})
	quiet := breaker.NewSet(nil).Get(id, policy) // nobody listens
	quiet.Trip(time.Time{}, breaker.CauseOperator)
	expectState(t, quiet, breaker.Open, time.Time{})
}

// Changes of one breaker arrive in order, each beginning where the last ended,
// however many goroutines cause them.
func TestConcurrentUse(t *testing.T) {
	heard := &recorder{}
	set := breaker.NewSet(heard.record)
	p := manifest.BreakerPolicy{FailureThreshold: 3, RecoveryTimeout: 50 * time.Microsecond, SuccessThreshold: 2}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 3000 {
				b := set.Get(id, p)
				if done, err := b.Allow(); err == nil {
					done(breaker.Result((i/20 + g) % 3))
				}
				switch {
				case i%500 == 100:
					b.Trip(time.Now().Add(20*time.Microsecond), breaker.CauseRemote)
				case i%500 == 300:
					b.Reset(breaker.CauseRemote)
				}
				b.State()
			}
		})
	}
	wg.Wait()
	from := breaker.Closed
	for i, c := range heard.changes {
		if c.From != from {
			t.Fatalf("change %d begins at %v, the one before ended at %v", i, c.From, from)
		}
		from = c.To
	}
	if len(heard.changes) < 10 {
		t.Errorf("only %d changes: the test tests nothing", len(heard.changes))
	}
}

func BenchmarkClosed(b *testing.B) {
	set := breaker.NewSet(nil)
	b.ReportAllocs()
	for b.Loop() {
		done, err := set.Get(id, policy).Allow()
		if err != nil {
			b.Fatal(err)
		}
		done(breaker.Success)
	}
}
