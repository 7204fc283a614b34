package consumers_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"backstop/consumers"
	"backstop/consumers/rollup"
	"backstop/dispatcher"
	"backstop/streams"
)

// logged makes the replica write the delivery log, as serve does.
func (b *bundle) logged() func(*consumers.Config) {
	l := consumers.NewAttemptLog(b.nc, slog.New(slog.NewTextHandler(b.Output(), nil)))
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.ctx))
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
		if n := l.Dropped(); n > 0 {
			b.Errorf("%d entries of the delivery log were dropped", n)
		}
	})
	return func(cfg *consumers.Config) {
		cfg.Deliver = dispatcher.Chain(cfg.Deliver, dispatcher.Measure(nil, l.Record))
	}
}

// overview waits until the replica's overview of the last hour fits.
func (b *bundle) overview(p *pipeline, what string, fits func(rollup.Overview) bool) rollup.Overview {
	b.Helper()
	var o rollup.Overview
	b.eventually(what, func() bool {
		var err error
		o, err = p.Rollups().Overview(b.ctx, time.Now().Add(-time.Hour))
		b.must(err)
		return fits(o)
	})
	return o
}

func attempts(n uint64) func(rollup.Overview) bool {
	return func(o rollup.Overview) bool { return o.Total.Attempts >= n }
}

// The receivers' own records are the truth that the rollups are held against,
// at two replicas and after both were replaced.
func TestRollupsAgreeWithTheReceivers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var n atomic.Int64
	good := newApp(b, always(200))
	flaky := newApp(b, func(*http.Request) (int, http.Header, string) {
		if n.Add(1)%2 == 1 {
			return 500, nil, ""
		}
		return 200, nil, ""
	})
	patient := map[string]any{"retry": map[string]any{"maxAttempts": 10, "initialDelay": 20, "maxDelay": 50}, "breaker": map[string]any{"failureThreshold": 100}}
	b.apply("good", good.URL, patient, "analytics", "report")
	b.apply("flaky", flaky.URL, patient, "analytics")
	one, two := b.start("r1", b.logged()), b.start("r2", b.logged())
	for i := range 60 {
		b.publish(endpoint("analytics", "good"), fmt.Sprintf("g%d", i), `{}`)
		b.publish(endpoint("report", "good"), fmt.Sprintf("r%d", i), `{}`)
		b.publish(endpoint("analytics", "flaky"), fmt.Sprintf("f%d", i), `{}`)
	}
	b.settled()
	truth := uint64(len(good.received()) + len(flaky.received()))
	logged := b.searchedAll(truth)
	for id, n := range flaky.byID() {
		if of := logged[id]; len(of) != n || !of[0].Success || n > 1 && (of[1].Success || of[1].Status != 500 || of[1].Attempt != n-1) {
			t.Errorf("the log has %+v of %s, which was received %d times", of, id, n)
		}
	}
	check := func(p *pipeline) {
		t.Helper()
		o := b.overview(p, "the overview", attempts(truth))
		if o.Total.Attempts != truth || o.Total.Succeeded != 180 {
			t.Errorf("%d attempts and %d successes, want %d and 180", o.Total.Attempts, o.Total.Succeeded, truth)
		}
		f := o.Endpoint(endpoint("analytics", "flaky"))
		failed := uint64(len(flaky.received())) - 60
		if f.Attempts != 60+failed || f.Succeeded != 60 || f.Failed["status"] != failed || f.Retries != failed || f.P99Ms <= 0 {
			t.Errorf("flaky: %+v, want 60 successes and %d retries of failures", f, failed)
		}
		if len(o.Apps) != 2 || o.Apps[1].App != "good" || o.Apps[1].Attempts != 120 || len(o.Endpoints) != 3 {
			t.Errorf("apps %+v", o.Apps)
		}
		var durations []float64
		for _, of := range logged {
			for _, a := range of {
				durations = append(durations, a.DurationMs)
			}
		}
		samePercentiles(t, o.Total, durations)
		points, err := p.Rollups().Series(b.ctx, endpoint("", "good"), time.Now().Add(-59*time.Minute), time.Now(), time.Minute)
		b.must(err)
		var sum uint64
		for _, point := range points {
			sum += point.Attempts
		}
		if sum != 120 || len(points) != 60 {
			t.Errorf("%d attempts in %d points, want 120 in 60", sum, len(points))
		}
	}
	check(one)
	check(two)
	b.must(one.stop())
	b.must(two.stop())
	three := b.start("r3", b.logged())
	check(three)
	b.publish(endpoint("analytics", "good"), "more", `{}`)
	truth++
	o := b.overview(three, "one attempt more", attempts(truth))
	if o.Total.Attempts != truth {
		t.Errorf("%d attempts, want %d: the log was added up twice", o.Total.Attempts, truth)
	}
}

// log writes entries as attempts would.
func (b *bundle) log(n int, change func(int, *streams.Attempt)) {
	b.Helper()
	for i := range n {
		a := streams.Attempt{
			ID: fmt.Sprint(i), App: "quiz", Capability: "analytics", Time: time.Now().UTC(), Attempt: 1,
			DurationMs: float64(i%100 + 1), Requested: true, Success: true, Verdict: "delivered",
		}
		if change != nil {
			change(i, &a)
		}
		msg, err := a.Msg()
		b.must(err)
		_, err = b.js.PublishMsgAsync(msg)
		b.must(err)
	}
	select {
	case <-b.js.PublishAsyncComplete():
	case <-b.patience.Done():
		b.Fatal("the entries were not stored")
	}
}

// Replicas come and go in the middle of it, the broker too; nothing is lost and
// nothing counts twice.
func TestRollupsAreExactAcrossTakeovers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const rounds, each = 4, 500
	var durations []float64
	for round := range rounds {
		p := b.start(fmt.Sprintf("r%d", round))
		b.log(each, func(i int, a *streams.Attempt) {
			a.App = fmt.Sprintf("app%d", i%300) // more than fit in one part
			durations = append(durations, a.DurationMs)
		})
		if round%2 == 0 {
			// As far as it is, which is anywhere.
			b.overview(p, "the first attempts", attempts(uint64(each*round)+1))
		} else {
			b.srv.Restart()
		}
		b.must(p.stop())
	}
	p := b.start("last")
	o := b.overview(p, "all attempts", attempts(rounds*each))
	if o.Total.Attempts != rounds*each || len(o.Endpoints) != 300 {
		t.Errorf("%d attempts at %d endpoints, want %d at 300", o.Total.Attempts, len(o.Endpoints), rounds*each)
	}
	samePercentiles(t, o.Total, durations)
}

// samePercentiles holds percentiles against the durations themselves.
func samePercentiles(t *testing.T, got rollup.Stats, durations []float64) {
	t.Helper()
	slices.Sort(durations)
	for share, got := range map[float64]float64{0.5: got.P50Ms, 0.95: got.P95Ms, 0.99: got.P99Ms} {
		want := durations[int(share*float64(len(durations)-1))]
		if math.Abs(got-want) > rollup.Accuracy*want+1e-9 {
			t.Errorf("p%v is %v, want %v within 1%%", share*100, got, want)
		}
	}
}

// searchedAll waits until the log has that many attempts, and returns them by
// id, the last one first.
func (b *bundle) searchedAll(n uint64) map[string][]streams.Attempt {
	b.Helper()
	found := map[string][]streams.Attempt{}
	b.eventually("the delivery log", func() bool {
		page, err := streams.NewAttemptLog(b.js).Search(b.ctx, streams.AttemptQuery{Limit: int(n) + 1})
		b.must(err)
		clear(found)
		for _, a := range page.Attempts {
			found[a.ID] = append(found[a.ID], a)
		}
		return uint64(len(page.Attempts)) >= n
	})
	for _, of := range found { // of two replicas, the later attempt may be logged first
		slices.SortFunc(of, func(x, y streams.Attempt) int { return y.Attempt - x.Attempt })
	}
	return found
}

// What somebody did to the streams by hand stops nothing.
func TestRollupsSurviveInterference(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := b.start("r1")
	b.log(10, nil)
	b.overview(p, "the first attempts", attempts(10))
	kv, err := b.js.KeyValue(b.ctx, streams.RollupsBucket)
	b.must(err)
	_, err = kv.PutString(b.ctx, "nonsense", "{")
	b.must(err)
	_, err = b.js.Publish(b.ctx, "attempts.analytics.quiz", []byte("{nope"))
	b.must(err)
	b.log(10, nil)
	b.overview(p, "the attempts after nonsense", attempts(20))
	s, err := b.js.Stream(b.ctx, streams.AttemptStream)
	b.must(err)
	b.must(s.Purge(b.ctx))
	b.log(10, nil)
	b.overview(p, "the attempts after a purge", attempts(30))
	b.must(b.js.DeleteStream(b.ctx, streams.AttemptStream))
	b.must(b.topology.Ensure(b.ctx))
	b.log(10, nil)
	if o := b.overview(p, "the attempts of a log that was made anew", attempts(40)); o.Total.Attempts != 40 {
		t.Errorf("%d attempts, want 40", o.Total.Attempts)
	}
}
