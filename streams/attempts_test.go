package streams_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// attemptLog is a log with entries 1…n, of ten apps in turn; each tenth was
// not delivered.
func attemptLog(t *testing.T, n int) (jetstream.JetStream, *streams.AttemptLog) {
	t.Helper()
	js := natstest.Start(t).JetStream()
	if err := streams.NewTopology(js, streams.Settings{StoreBytes: 4 << 30}).Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= n; i++ {
		storeAttempt(t, js, i)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(30 * time.Second):
		t.Fatal("the log was not stored")
	}
	return js, streams.NewAttemptLog(js)
}

func storeAttempt(t *testing.T, js jetstream.JetStream, i int) {
	t.Helper()
	a := streams.Attempt{ID: fmt.Sprint("e", i), App: fmt.Sprint("app", i%10), Capability: "analytics", Time: time.Now(), Attempt: 1, Requested: true, Success: true, Verdict: "delivered"}
	if i%10 == 0 {
		a.Success, a.Verdict, a.Reason = false, "retry", "timeout"
	}
	msg, err := a.Msg()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.PublishMsgAsync(msg); err != nil {
		t.Fatal(err)
	}
}

// pages follows the cursor to the end and returns the sequences.
func pages(t *testing.T, log *streams.AttemptLog, q streams.AttemptQuery) (all []uint64, calls int) {
	t.Helper()
	for {
		page, err := log.Search(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		calls++
		for _, a := range page.Attempts {
			all = append(all, a.Sequence)
		}
		if page.Next == 0 {
			return all, calls
		}
		q.Cursor = page.Next
	}
}

func TestAttemptSearchPagesCoverEverythingOnce(t *testing.T) {
	js, log := attemptLog(t, 1000)
	every := func(step int) (want []uint64) {
		for i := step; i <= 1000; i += step {
			want = append(want, uint64(i))
		}
		return want
	}
	for name, tc := range map[string]struct {
		query streams.AttemptQuery
		want  []uint64 // oldest first
		why   string
	}{
		"all":       {streams.AttemptQuery{Limit: 300}, every(1), "no filter selects all"},
		"endpoint":  {streams.AttemptQuery{Limit: 7, AttemptFilter: streams.AttemptFilter{App: "app0", Capability: "analytics"}}, every(10), "the broker filters"},
		"outcome":   {streams.AttemptQuery{Limit: 30, AttemptFilter: streams.AttemptFilter{Outcome: "timeout"}}, every(10), "we filter"},
		"exactly":   {streams.AttemptQuery{Limit: 100, AttemptFilter: streams.AttemptFilter{Outcome: streams.OutcomeFailed}}, every(10), "a full last page is the last one"},
		"one":       {streams.AttemptQuery{AttemptFilter: streams.AttemptFilter{ID: "e3"}}, []uint64{3}, "the oldest but two"},
		"bounded":   {streams.AttemptQuery{MostRead: 64, AttemptFilter: streams.AttemptFilter{ID: "e3"}}, []uint64{3}, "partial pages lead there, too"},
		"nobody":    {streams.AttemptQuery{AttemptFilter: streams.AttemptFilter{App: "nobody"}}, nil, "an app without attempts"},
		"too young": {streams.AttemptQuery{AttemptFilter: streams.AttemptFilter{Since: time.Now().Add(time.Hour)}}, nil, "nothing is that young"},
		"too old":   {streams.AttemptQuery{AttemptFilter: streams.AttemptFilter{Until: time.Now().Add(-time.Hour)}}, nil, "nothing is that old"},
	} {
		t.Run(name, func(t *testing.T) {
			q := tc.query
			q.OldestFirst = true
			if got, _ := pages(t, log, q); !slices.Equal(got, tc.want) {
				t.Errorf("oldest first: %d entries %v…, want %d: %s", len(got), got[:min(len(got), 5)], len(tc.want), tc.why)
			}
			got, calls := pages(t, log, tc.query)
			slices.Reverse(got)
			if !slices.Equal(got, tc.want) {
				t.Errorf("newest first: %d entries %v…, want %d: %s", len(got), got[:min(len(got), 5)], len(tc.want), tc.why)
			}
			if name == "exactly" && calls != 1 {
				t.Errorf("%d pages for what fits in one", calls)
			}
		})
	}
	page, err := log.Search(t.Context(), streams.AttemptQuery{MostRead: 300, AttemptFilter: streams.AttemptFilter{ID: "e3"}})
	if err != nil || !page.Partial || page.Read >= 1000 {
		t.Errorf("a search that gives up says so: %+v, %v", page, err)
	}
	s, err := js.Stream(t.Context(), streams.AttemptStream)
	if err != nil || s.CachedInfo().State.Consumers != 0 {
		t.Errorf("searches left %d consumers behind (%v)", s.CachedInfo().State.Consumers, err)
	}
}

func TestAttemptsAreFollowed(t *testing.T) {
	js, log := attemptLog(t, 5)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, done := make(chan streams.Attempt, 100), make(chan error, 1)
	go func() {
		done <- log.Follow(ctx, streams.AttemptFilter{Outcome: "retry"}, func(a streams.Attempt) error {
			seen <- a
			return nil
		})
	}()
	patience := time.After(30 * time.Second)
	for i := 6; ; i++ { // until Follow has begun
		storeAttempt(t, js, i)
		select {
		case a := <-seen:
			if a.Sequence <= 5 || a.Verdict != "retry" {
				t.Errorf("followed %+v", a)
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Follow: %v", err)
			}
			return
		case <-patience:
			t.Fatal("nothing is followed")
		case <-time.After(time.Millisecond):
		}
	}
}
