package consumers_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers"
	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/streams"
)

// apart gives a replica a connection of its own, as one in another process has.
func (b *bundle) apart(c *consumers.Config) {
	js, err := jetstream.New(b.srv.Conn())
	b.must(err)
	c.JetStream = js
}

// replica returns which one made a request.
func (r request) replica() string { return strings.TrimPrefix(r.header.Get("User-Agent"), "Backstop/") }

// watchtower keeps what the replicas' breakers do.
type watchtower struct {
	mu      sync.Mutex
	changes []turned
}

type turned struct {
	at      time.Time
	replica string
	breaker.Change
}

func (w *watchtower) tell(replica string, c breaker.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = append(w.changes, turned{time.Now(), replica, c})
}

// opened returns when breakers were opened for the cause.
func (w *watchtower) opened(cause breaker.Cause) (all []time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.changes {
		if c.To == breaker.Open && c.Cause == cause {
			all = append(all, c.at)
		}
	}
	return all
}

func (w *watchtower) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes = nil
}

// callUntil has callers call the endpoint one after the other until stop is called.
func (b *bundle) callUntil(callers int, subject string) (stop func()) {
	done := make(chan struct{})
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := b.nc.Request(subject, []byte(`{}`), 10*time.Second); err != nil {
					b.Errorf("a call: %v", err)
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(done)
		calling.Wait()
	})
}

// TestATripIsKnownToAllReplicas: one replica's breaker opens, and soon no
// replica asks the app any more. How soon is measured here and on record in
// docs/reliability.md; BACKSTOP_TRIPS sets the number of trips.
func TestATripIsKnownToAllReplicas(t *testing.T) {
	const bound = 10 * time.Second // on a machine that is busy with something else
	trips := 8
	if n, err := strconv.Atoi(os.Getenv("BACKSTOP_TRIPS")); err == nil {
		trips = n
	}
	b := setup(t)
	tower := &watchtower{}
	b.tell = tower.tell
	quiz := newApp(b, answers(200, `{"success":true,"data":1}`))
	// Nothing is probed while the test looks.
	b.apply("quiz", quiz.URL, takesCalls(map[string]any{"breaker": map[string]any{"failureThreshold": 3, "recoveryTimeout": 600_000, "successThreshold": 2}}), "score")
	names := []string{"r1", "r2", "r3"}
	insights := make(map[string]*insight)
	for _, name := range names {
		insights[name] = &insight{}
		b.start(name, b.apart, insights[name].into)
	}
	id := endpoint("score", "quiz")
	all := func(open bool) func() bool {
		return func() bool {
			return !slices.ContainsFunc(names, func(n string) bool { return insights[n].open(id) != open })
		}
	}
	stop := b.callUntil(4, "calls.score.quiz")
	defer func() { stop() }()
	var known, last []time.Duration
	found := 0 // trips that a replica found out by itself
	for range trips {
		b.eventually("calls of every replica", func() bool {
			by := map[string]bool{}
			for _, r := range quiz.received() {
				by[r.replica()] = true
			}
			return len(by) == len(names)
		})
		tower.clear()
		quiz.setAnswer(answers(500, "oops"))
		b.eventually("every breaker to open", all(true))
		stop()
		trip := slices.MinFunc(tower.opened(breaker.CauseFailures), time.Time.Compare)
		told := trip // all may have found out by themselves
		for _, at := range append(tower.opened(breaker.CauseRemote), tower.opened(breaker.CauseFailures)...) {
			if at.After(told) {
				told = at
			}
		}
		known = append(known, told.Sub(trip))
		var after time.Duration
		for _, r := range quiz.received() {
			after = max(after, r.at.Sub(trip))
		}
		last = append(last, after)
		quiz.setAnswer(answers(200, `{"success":true,"data":1}`))
		quiz.forget()
		// The way is closed in all of them.
		for range 20 {
			if got, _ := b.ask("calls.score.quiz", `{}`); got.Reason != "circuit_open" {
				t.Fatalf("a call after the trip: %s", asJSON(t, got))
			}
		}
		if n := len(quiz.received()); n > 0 {
			t.Fatalf("%d requests after the trip was known to all", n)
		}
		// One that opened by itself as well tells it late, and then people.
		found += len(tower.opened(breaker.CauseFailures))
		b.eventually("every replica to have told", func() bool { return b.notices(streams.NoticeBreakerOpened) == found })
		_, err := b.gates.ClearIf(b.ctx, id, func(streams.Gate) bool { return true })
		b.must(err)
		b.eventually("every breaker to close", all(false))
		stop = b.callUntil(4, "calls.score.quiz")
	}
	t.Logf("%d trips: known to all replicas after %s; last request at the app after %s", trips, spread(known), spread(last))
	if worst := max(slices.Max(known), slices.Max(last)); worst > bound {
		t.Errorf("it took %v until the way was closed in all replicas, want %v at most", worst, bound)
	}
}

// spread describes durations, which it sorts.
func spread(d []time.Duration) string {
	slices.Sort(d)
	at := func(share float64) time.Duration { return d[int(share*float64(len(d)-1))].Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v, p90 %v, p99 %v, at most %v", at(0.5), at(0.9), at(0.99), at(1))
}

// TestOneReplicaProbes: three replicas, whose breakers are all half-open at the
// same time, make one request to an app that is still down, and not three. Each
// probe that fails opens the breakers again, so that from one to the next it is
// never much less than the recovery time, however slow this machine is.
func TestOneReplicaProbes(t *testing.T) {
	t.Parallel()
	const recovery, periods = 700 * time.Millisecond, 5
	policy := map[string]any{"failureThreshold": 3, "recoveryTimeout": recovery.Milliseconds(), "successThreshold": 1}
	for name, sync := range map[string]bool{"of events": false, "of calls": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			tower := &watchtower{}
			b.tell = tower.tell
			var good atomic.Bool
			quiz := newApp(b, func(*http.Request) (int, http.Header, string) {
				if good.Load() {
					return 200, nil, `{"success":true,"data":1}`
				}
				return 500, nil, ""
			})
			hook := map[string]any{"breaker": policy, "retry": map[string]any{"maxAttempts": 20, "initialDelay": 10, "maxDelay": 20}}
			if sync {
				hook = takesCalls(map[string]any{"breaker": policy})
			}
			b.apply("quiz", quiz.URL, hook, "score")
			var underWay atomic.Int64
			for i := range 3 {
				b.start(fmt.Sprint("r", i), b.apart, func(c *consumers.Config) {
					deliver := c.Deliver
					c.Deliver = func(ctx context.Context, call dispatcher.Call) dispatcher.Outcome {
						underWay.Add(1)
						defer underWay.Add(-1)
						return deliver(ctx, call)
					}
				})
			}
			stop := func() {}
			const events = 20
			if sync {
				stop = b.callUntil(6, "calls.score.quiz")
			} else {
				for i := range events {
					b.publish(endpoint("score", "quiz"), fmt.Sprint("e", i), `{}`)
				}
			}
			b.eventually("the first trip to be known to all", func() bool {
				return len(tower.opened(breaker.CauseFailures))+len(tower.opened(breaker.CauseRemote)) >= 3
			})
			// What was under way at the trip is no probe.
			b.eventually("the requests at the trip to be over", func() bool { return underWay.Load() == 0 })
			before := len(quiz.received())
			b.eventually("some probes", func() bool { return len(quiz.received()) >= before+periods })
			probes := quiz.received()[before:]
			by := map[string]int{}
			for i, r := range probes {
				by[r.replica()]++
				if i > 0 {
					// Two replicas' readings of NATS's clock differ by as long as
					// its answers are under way.
					if gap := r.at.Sub(probes[i-1].at); gap < recovery/2 {
						t.Errorf("probe %d, of %s, came %v after that of %s, want one in %v", i, r.replica(), gap, probes[i-1].replica(), recovery)
					}
				}
			}
			t.Logf("%d probes in %v, by replica %v", len(probes), probes[len(probes)-1].at.Sub(probes[0].at).Round(time.Millisecond), by)
			good.Store(true)
			stop()
			if sync {
				b.eventually("a good answer", func() bool {
					got, _ := b.ask("calls.score.quiz", `{}`)
					return got.Success
				})
				return
			}
			b.settled()
			if n, dead := len(quiz.byID()), b.deadLetters(); n != events || len(dead) > 0 {
				t.Errorf("%d of %d events arrived, %d dead letters", n, events, len(dead))
			}
		})
	}
}

// TestClosedBreakersAskNobody: while the app works, no replica asks NATS about
// its breaker, or tells of it.
func TestClosedBreakersAskNobody(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, answers(200, `{"success":true,"data":1}`))
	b.apply("quiz", quiz.URL, nil, "analytics")
	b.apply("score", quiz.URL, takesCalls(nil), "score")
	for i := range 2 {
		b.start(fmt.Sprint("r", i), b.apart)
	}
	b.publishable("analytics")
	var mu sync.Mutex
	about := map[string]int{}
	watch := b.srv.Conn()
	sub, err := watch.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		// Whoever follows a bucket asks now and then whether it is still there.
		followed := strings.HasPrefix(m.Subject, "$JS.API.STREAM.INFO.")
		if !followed && strings.Contains(m.Subject, "KV_"+streams.BreakersBucket) || strings.Contains(m.Subject, "$KV."+streams.BreakersBucket) || strings.Contains(m.Subject, "probe.") {
			about[m.Subject]++
		}
	})
	b.must(err)
	b.must(sub.SetPendingLimits(-1, -1))
	b.must(watch.Flush())
	const n = 300
	for i := range n {
		b.publish(endpoint("analytics", "quiz"), fmt.Sprint("e", i), `{}`)
		if got, _ := b.ask("calls.score.score", `{}`); !got.Success {
			t.Fatalf("a call: %s", asJSON(t, got))
		}
	}
	b.settled()
	if got := len(quiz.received()); got != 2*n {
		t.Errorf("%d requests, want %d", got, 2*n)
	}
	seen := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(about)
	}
	if seen() > 0 {
		t.Errorf("about breakers, while all were closed: %v", about)
	}
	// It would have seen it.
	_, _, err = b.gates.Get(b.ctx, endpoint("analytics", "quiz"))
	b.must(err)
	b.eventually("a request about a breaker to be seen", func() bool { return seen() > 0 })
}
