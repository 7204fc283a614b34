package streams_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
)

func pendings(b *bundle) (*streams.Pendings, jetstream.KeyValue) {
	b.Helper()
	kv, err := b.js.KeyValue(b.ctx, streams.PendingBucket)
	b.must(err)
	return streams.NewPendings(kv), kv
}

func waiting(app, id string) streams.PendingRequest {
	return streams.PendingRequest{
		ID: id, App: app, Capability: "participantRegistration", Reason: "circuit_open",
		Payload: []byte(`{"name": "<Ann>",  "n":1.0}`), TraceParent: "00-x",
	}
}

func TestPendingIsKeptAsItCame(t *testing.T) {
	b := setup(t)
	p, _ := pendings(b)
	before := time.Now()
	made, err := p.Create(b.ctx, waiting("quiz", "one"))
	b.must(err)
	got, err := p.Get(b.ctx, "one")
	b.must(err)
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", made) {
		t.Errorf("stored %+v, read %+v", made, got)
	}
	if string(got.Payload) != `{"name": "<Ann>",  "n":1.0}` {
		t.Errorf("payload %s: the app has to get it byte for byte", got.Payload)
	}
	if got.State != streams.PendingWaiting || got.CreatedAt.Before(before) || got.Done || got.TraceParent != "00-x" {
		t.Errorf("%+v", got)
	}
	if got.Key() != "participantRegistration.quiz.one" {
		t.Errorf("key %s", got.Key())
	}
}

func TestPendingIsMadeOnce(t *testing.T) {
	b := setup(t)
	p, _ := pendings(b)
	first, err := p.Create(b.ctx, waiting("quiz", "one"))
	b.must(err)
	again := waiting("quiz", "one")
	again.Payload, again.State, again.Done = []byte(`{}`), streams.PendingApproved, true
	second, err := p.Create(b.ctx, again)
	b.must(err)
	if string(second.Payload) != string(first.Payload) || second.State != streams.PendingWaiting || !second.CreatedAt.Equal(first.CreatedAt) {
		t.Errorf("the second Create changed %+v to %+v", first, second)
	}
	_, err = p.Decide(b.ctx, "one", false, "ann", "")
	b.must(err)
	third, err := p.Create(b.ctx, waiting("quiz", "one"))
	b.must(err)
	if third.State != streams.PendingRejected {
		t.Errorf("a decided request is %s after a repetition", third.State)
	}
	if all, err := p.List(b.ctx); err != nil || len(all) != 1 {
		t.Errorf("%d requests, error %v", len(all), err)
	}
}

func TestPendingRefusesWhatIsWrong(t *testing.T) {
	b := setup(t)
	p, _ := pendings(b)
	for reason, change := range map[string]func(*streams.PendingRequest){
		"an id that would be a wildcard": func(r *streams.PendingRequest) { r.ID = "*" },
		"no id":                          func(r *streams.PendingRequest) { r.ID = "" },
		"an app of two tokens":           func(r *streams.PendingRequest) { r.App = "a.b" },
		"no capability":                  func(r *streams.PendingRequest) { r.Capability = "" },
		"not JSON":                       func(r *streams.PendingRequest) { r.Payload = []byte(`{"a":1}}`) },
		"nothing":                        func(r *streams.PendingRequest) { r.Payload = nil },
		"too large": func(r *streams.PendingRequest) {
			r.Payload = []byte(`"` + strings.Repeat("x", streams.MaxPayload) + `"`)
		},
	} {
		r := waiting("quiz", "one")
		change(&r)
		if _, err := p.Create(b.ctx, r); err == nil {
			t.Errorf("%s: taken", reason)
		}
	}
	large := waiting("quiz", "large")
	large.Payload = []byte(`"` + strings.Repeat("<", streams.MaxPayload-2) + `"`) // would be six times as long if it were escaped
	_, err := p.Create(b.ctx, large)
	b.must(err)
}

func TestPendingListIsOldestFirst(t *testing.T) {
	b := setup(t)
	p, _ := pendings(b)
	for _, id := range []string{"c", "a", "b"} {
		_, err := p.Create(b.ctx, waiting("quiz", id))
		b.must(err)
	}
	all, err := p.List(b.ctx)
	b.must(err)
	var ids []string
	for _, r := range all {
		ids = append(ids, r.ID)
	}
	if !slices.Equal(ids, []string{"c", "a", "b"}) {
		t.Errorf("order %v", ids)
	}
}

func TestPendingIsFoundByIDOrKey(t *testing.T) {
	b := setup(t)
	p, _ := pendings(b)
	for _, app := range []string{"quiz", "lottery"} {
		_, err := p.Create(b.ctx, waiting(app, "same"))
		b.must(err)
	}
	_, err := p.Create(b.ctx, waiting("quiz", "other"))
	b.must(err)
	_, err = p.Get(b.ctx, "same")
	if !errors.Is(err, streams.ErrAmbiguous) || !strings.Contains(err.Error(), "participantRegistration.lottery.same, participantRegistration.quiz.same") {
		t.Errorf("error %v has to name both", err)
	}
	if _, err := p.Decide(b.ctx, "same", true, "ann", ""); !errors.Is(err, streams.ErrAmbiguous) {
		t.Errorf("decided one of two: %v", err)
	}
	if r, err := p.Get(b.ctx, "participantRegistration.quiz.same"); err != nil || r.App != "quiz" {
		t.Errorf("%+v, %v", r, err)
	}
	for _, id := range []string{"none", "", "*", "a.b", "a.b.c", "x.*.same", "participantRegistration.quiz.>", "é"} {
		if _, err := p.Get(b.ctx, id); !errors.Is(err, streams.ErrNoPending) {
			t.Errorf("%q: error %v", id, err)
		}
	}
}

func TestPendingIsDecidedOnce(t *testing.T) {
	b := setup(t)
	p, _ := pendings(b)
	_, err := p.Create(b.ctx, waiting("quiz", "one"))
	b.must(err)
	if err := p.MarkDone(b.ctx, "one"); !errors.Is(err, streams.ErrUndecided) {
		t.Errorf("done before it was decided: %v", err)
	}
	decided, err := p.Decide(b.ctx, "one", true, "ann", "known to us")
	b.must(err)
	if decided.State != streams.PendingApproved || decided.DecidedBy != "ann" || decided.Why != "known to us" || decided.DecidedAt.IsZero() {
		t.Errorf("%+v", decided)
	}
	for _, approve := range []bool{true, false} {
		_, err := p.Decide(b.ctx, "one", approve, "bob", "")
		var already *streams.DecidedError
		if !errors.As(err, &already) || already.Request.DecidedBy != "ann" {
			t.Fatalf("a second decision: %v", err)
		}
		for _, want := range []string{"approved", "by ann", decided.DecidedAt.Format("2006-01-02T15:04"), "known to us"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q doesn't say %q", err, want)
			}
		}
	}
	b.must(p.MarkDone(b.ctx, "one"))
	done, err := p.Get(b.ctx, "one")
	b.must(err)
	b.must(p.MarkDone(b.ctx, "one"))
	again, err := p.Get(b.ctx, "one")
	b.must(err)
	if !done.Done || done.DoneAt.IsZero() || !again.DoneAt.Equal(done.DoneAt) || string(again.Payload) != string(waiting("", "").Payload) {
		t.Errorf("%+v, then %+v", done, again)
	}
}

func TestPendingDecisionNeedsAName(t *testing.T) {
	b := setup(t)
	p, _ := pendings(b)
	_, err := p.Create(b.ctx, waiting("quiz", "one"))
	b.must(err)
	for _, words := range [][2]string{{"", "w"}, {" ", "w"}, {strings.Repeat("x", 201), ""}, {"ann", strings.Repeat("x", 4001)}, {"a\xff", ""}, {"ann", "\xff"}} {
		if _, err := p.Decide(b.ctx, "one", true, words[0], words[1]); err == nil {
			t.Errorf("decided by %q, as %q", words[0], words[1])
		}
	}
}

// Of many who decide at once, one does.
func TestPendingRace(t *testing.T) {
	b := setup(t)
	p, _ := pendings(b)
	_, err := p.Create(b.ctx, waiting("quiz", "one"))
	b.must(err)
	var group sync.WaitGroup
	won := make(chan string, 20)
	for i := range 20 {
		group.Go(func() {
			by := fmt.Sprint("person", i)
			_, err := p.Decide(b.ctx, "one", i%2 == 0, by, "")
			var already *streams.DecidedError
			switch {
			case err == nil:
				won <- by
			case !errors.As(err, &already):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(won) != 1 {
		t.Fatalf("%d decided", len(won))
	}
	if r, err := p.Get(b.ctx, "one"); err != nil || r.DecidedBy != <-won {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestPendingSweep(t *testing.T) {
	b := setup(t)
	p, kv := pendings(b)
	for _, id := range []string{"waits", "decided", "done"} {
		_, err := p.Create(b.ctx, waiting("quiz", id))
		b.must(err)
	}
	for _, id := range []string{"decided", "done"} {
		_, err := p.Decide(b.ctx, id, true, "ann", "")
		b.must(err)
	}
	b.must(p.MarkDone(b.ctx, "done"))
	_, err := kv.PutString(b.ctx, "participantRegistration.quiz.nonsense", "{")
	b.must(err)
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 0}, {7*24*time.Hour - time.Minute, 0}, {7*24*time.Hour + time.Minute, 1}, {10 * 365 * 24 * time.Hour, 0}} {
		if n, err := p.Sweep(b.ctx, time.Now().Add(step.after)); err != nil || n != step.want {
			t.Errorf("after %v: removed %d, want %d (%v)", step.after, n, step.want, err)
		}
	}
	b.must(kv.Delete(b.ctx, "participantRegistration.quiz.nonsense"))
	if all, err := p.List(b.ctx); err != nil || len(all) != 2 {
		t.Errorf("%d are left, want the one that waits and the one of which nobody was told (%v)", len(all), err)
	}
}

func TestPendingUnreadable(t *testing.T) {
	b := setup(t)
	p, kv := pendings(b)
	for key, value := range map[string]string{"a.b.c": "{", "a.b.d": `{"state":"maybe"}`, "a.b": `{"state":"waiting"}`} {
		_, err := kv.PutString(b.ctx, key, value)
		b.must(err)
		if _, err := p.List(b.ctx); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: a list with error %v", value, err)
		}
		b.must(kv.Delete(b.ctx, key))
	}
	// What stands in the value doesn't speak for another endpoint.
	_, err := kv.PutString(b.ctx, "a.b.c", `{"id":"x","app":"y","capability":"z","state":"waiting"}`)
	b.must(err)
	if r, err := p.Get(b.ctx, "c"); err != nil || r.Key() != "a.b.c" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestPendingWatch(t *testing.T) {
	b := setup(t)
	p, kv := pendings(b)
	_, err := p.Create(b.ctx, waiting("quiz", "one"))
	b.must(err)
	told := make(chan string, 10)
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() {
		done <- p.Watch(ctx, slog.New(slog.NewTextHandler(t.Output(), nil)), func() { told <- "loaded" }, func(key string, r *streams.PendingRequest) {
			if r == nil {
				told <- "-" + key
				return
			}
			told <- string(r.State) + " " + key
		})
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		case <-b.ctx.Done():
			t.Fatalf("not told %q", want)
		}
	}
	const key = "participantRegistration.quiz.one"
	expect("waiting " + key)
	expect("loaded")
	_, err = kv.PutString(b.ctx, "a.b.c", "{") // ignored
	b.must(err)
	_, err = p.Decide(b.ctx, "one", false, "ann", "")
	b.must(err)
	expect("rejected " + key)
	b.must(kv.Delete(b.ctx, key))
	expect("-" + key)
	cancel()
	b.must(<-done)
}

func TestPendingSurvivesARestart(t *testing.T) {
	b := setup(t, natstest.SyncAlways())
	p, _ := pendings(b)
	_, err := p.Create(b.ctx, waiting("quiz", "one"))
	b.must(err)
	b.srv.Restart()
	for {
		r, err := p.Get(b.ctx, "one")
		if err == nil {
			if r.State != streams.PendingWaiting {
				t.Errorf("%+v", r)
			}
			return
		}
		if b.ctx.Err() != nil || errors.Is(err, streams.ErrNoPending) {
			t.Fatal(err)
		}
	}
}

// The cache is a bucket to everybody, and lets go of what is oldest.
func TestCacheBucketIsBoundedAndTakesWrites(t *testing.T) {
	b := setup(t)
	kv, err := b.js.KeyValue(b.ctx, streams.CacheBucket)
	b.must(err)
	status, err := kv.Status(b.ctx)
	b.must(err)
	if status.TTL() != streams.MaxCacheAge || status.History() != 1 {
		t.Errorf("ttl %v, history %d", status.TTL(), status.History())
	}
	value := make([]byte, 512<<10)
	for i := range 40 { // 20 MB into the 16 MB that a small store gives it
		_, err := kv.Put(b.ctx, fmt.Sprint("a.b.", i), value)
		b.must(err)
	}
	if _, err := kv.Get(b.ctx, "a.b.39"); err != nil {
		t.Errorf("the last: %v", err)
	}
	if _, err := kv.Get(b.ctx, "a.b.0"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the first: %v", err)
	}
	b.must(b.topology.Ensure(b.ctx))
}

// A bucket that the version before made is brought up to date.
func TestCacheBucketIsUpdated(t *testing.T) {
	srv := natstest.Start(t)
	js := srv.JetStream()
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: streams.CacheBucket, History: 1, TTL: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.NewTopology(js, streams.Settings{StoreBytes: 1 << 30}).Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "KV_"+streams.CacheBucket)
	if err != nil || s.CachedInfo().Config.Discard != jetstream.DiscardOld || s.CachedInfo().Config.MaxBytes != 16<<20 {
		t.Errorf("%+v, %v", s.CachedInfo().Config, err)
	}
}
