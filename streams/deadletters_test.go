package streams_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

func letter(id, origin string, reason streams.DeadLetterReason, failed time.Time) streams.DeadLetter {
	return streams.DeadLetter{
		Event:  streams.Event{ID: id, Origin: origin, EndpointID: quiz, Payload: []byte(`{ "kept" : "as it is" }`), PublishedAt: failed.Add(-time.Minute), Attempts: 3},
		Reason: reason, Err: "line one\nline two\x00", Status: 500, FailedAt: failed,
	}
}

func (b *bundle) selectIDs(f streams.Filter) []string {
	b.Helper()
	var ids []string
	for d, err := range streams.NewDeadLetters(b.js).Select(b.ctx, f) {
		b.must(err)
		ids = append(ids, d.ID)
	}
	return ids
}

func TestDeadLetterRoundTrip(t *testing.T) {
	b := setup(t)
	letters := streams.NewDeadLetters(b.js)
	want := letter("id-1", "o-1", streams.Exhausted, time.Now())
	for range 3 { // written again after a crash
		b.must(letters.Store(b.ctx, want))
	}
	var got []streams.DeadLetter
	for d, err := range letters.Select(b.ctx, streams.Filter{}) {
		b.must(err)
		got = append(got, d)
	}
	if len(got) != 1 {
		t.Fatalf("%d dead letters after writing one three times, want 1", len(got))
	}
	d := got[0]
	if d.ID != want.ID || d.EndpointID != quiz || d.Reason != want.Reason || d.Status != 500 || d.Attempts != 3 ||
		!d.FailedAt.Equal(want.FailedAt) || !d.PublishedAt.Equal(want.PublishedAt) || string(d.Payload) != string(want.Payload) {
		t.Errorf("stored %+v\nread   %+v", want, d)
	}
	if d.Err != "line one line two" {
		t.Errorf("error %q, want it on one line", d.Err)
	}
}

func TestFilter(t *testing.T) {
	b := setup(t)
	letters := streams.NewDeadLetters(b.js)
	now := time.Now()
	other := letter("c", "o-3", streams.Expired, now)
	other.EndpointID = streams.EndpointID{Capability: "email", App: "shop"}
	nobody := letter("d", "o-4", streams.NoRoute, now)
	nobody.EndpointID = streams.EndpointID{Capability: "email"}
	for _, d := range []streams.DeadLetter{
		letter("a", "o-1", streams.Exhausted, now.Add(-time.Hour)), letter("b", "o-2", streams.RejectedByApp, now), other, nobody,
	} {
		b.must(letters.Store(b.ctx, d))
	}
	for _, tc := range []struct {
		filter streams.Filter
		want   string
	}{
		{streams.Filter{}, "abcd"},
		{streams.Filter{App: "quiz"}, "ab"},
		{streams.Filter{Capability: "email"}, "cd"},
		{streams.Filter{Capability: "email", App: "shop"}, "c"},
		{streams.Filter{Reason: streams.Exhausted}, "a"},
		{streams.Filter{Since: now.Add(-time.Minute)}, "bcd"},
		{streams.Filter{Until: now.Add(-time.Minute)}, "a"},
		{streams.Filter{IDs: []string{"b", "c"}}, "bc"},
		{streams.Filter{IDs: []string{"none"}}, ""},
		{streams.Filter{App: "nobody"}, ""},
		{streams.Filter{App: streams.NoApp}, "d"},
	} {
		got := ""
		for _, id := range b.selectIDs(tc.filter) {
			got += id
		}
		if got != tc.want {
			t.Errorf("%+v selects %q, want %q", tc.filter, got, tc.want)
		}
	}
}

func TestReplayMakesOneEventWithTheSameID(t *testing.T) {
	b := setup(t)
	letters := streams.NewDeadLetters(b.js)
	b.must(letters.Store(b.ctx, letter("id-1", "o-1", streams.Exhausted, time.Now())))
	var d streams.DeadLetter
	for got, err := range letters.Select(b.ctx, streams.Filter{}) {
		b.must(err)
		d = got
	}
	// Two operators at once, and one of them again.
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if err := letters.Replay(b.ctx, d); err != nil && !errors.Is(err, streams.ErrGone) {
				t.Errorf("replay: %v", err)
			}
		})
	}
	both.Wait()
	if err := letters.Replay(b.ctx, d); !errors.Is(err, streams.ErrGone) {
		t.Errorf("replaying once more: %v, want ErrGone", err)
	}
	if events, left := b.messages("EVENTS_analytics"), b.messages("DLQ"); events != 1 || left != 0 {
		t.Fatalf("%d events and %d dead letters after the replay, want 1 and 0", events, left)
	}
	event, err := streams.Decode(b.next("EVENTS_analytics", "webhooks"))
	b.must(err)
	if event.ID != "id-1" || event.Attempts != 0 || string(event.Payload) != string(d.Payload) {
		t.Errorf("replayed as %+v", event)
	}
	// It fails again: that is another dead letter, not a duplicate of the first.
	b.must(letters.Store(b.ctx, streams.DeadLetter{Event: event, Reason: streams.Exhausted, FailedAt: time.Now()}))
	if got := b.messages("DLQ"); got != 1 {
		t.Errorf("%d dead letters after the replayed event failed again, want 1: it was lost", got)
	}
}

// Publishers name whom they like. Whatever the name is, its dead letters can be
// found and discarded, and aren't replayed to somebody else: those of an app "_"
// once went to every app, as a broadcast.
func TestDeadLettersOfNamesThatNoAppCanHave(t *testing.T) {
	b := setup(t)
	letters := streams.NewDeadLetters(b.js)
	long := strings.Repeat("x", 4080)
	names := []string{"_", "*", ">", "q!z", "_x", "a.b", long, long + "y", strings.Repeat("\xff", 200), "…"}
	for i, name := range names {
		d := letter(fmt.Sprint("id-", i), fmt.Sprint("o-", i), streams.NoRoute, time.Now())
		d.App = name
		b.must(letters.Store(b.ctx, d))
		b.must(letters.Store(b.ctx, d))
	}
	b.must(letters.Store(b.ctx, letter("other", "o", streams.NoRoute, time.Now())))
	if b.nc.IsClosed() {
		t.Fatal("the server closed the connection")
	}
	_, counts, err := letters.Counts(b.ctx)
	b.must(err)
	for i, name := range names {
		id := fmt.Sprint("id-", i)
		for d, err := range letters.Select(b.ctx, streams.Filter{IDs: []string{id}}) {
			b.must(err)
			if len(name) < 100 && d.App != name || len(d.App) > 150 || d.App == "" {
				t.Errorf("the dead letter of app %.10q is one of app %q", name, d.App)
			}
			if found := b.selectIDs(streams.Filter{Capability: d.Capability, App: d.App}); !slices.Contains(found, id) {
				t.Errorf("app %q has the dead letters %v", d.App, found)
			}
			if err := letters.Replay(b.ctx, d); !errors.Is(err, streams.ErrNoSuchName) {
				t.Errorf("replaying that of app %q: %v", d.App, err)
			}
			b.must(letters.Discard(b.ctx, d, "ann", ""))
		}
	}
	for id := range counts { // goes by tokens, and so does whoever looks at one of them
		if n := len(b.selectIDs(streams.Filter{Capability: id.Capability, App: cmp.Or(id.App, streams.NoApp)})); n > 0 && id.App != "quiz" {
			t.Errorf("%d dead letters of app %q are left", n, id.App)
		}
	}
	if left := b.selectIDs(streams.Filter{}); len(left) != 1 {
		t.Errorf("%v are left", left)
	}
	if n := b.messages("EVENTS_analytics"); n != 0 {
		t.Errorf("%d events were published", n)
	}
}

func TestReplayToARetiredCapabilityKeepsTheDeadLetter(t *testing.T) {
	b := setup(t)
	letters := streams.NewDeadLetters(b.js)
	b.must(letters.Store(b.ctx, letter("id-1", "o-1", streams.Exhausted, time.Now())))
	b.must(b.topology.RetireCapability(b.ctx, quiz.Capability))
	for d, err := range letters.Select(b.ctx, streams.Filter{}) {
		b.must(err)
		if err := letters.Replay(b.ctx, d); !errors.Is(err, streams.ErrNoStream) {
			t.Errorf("replay: %v, want ErrNoStream", err)
		}
	}
	if got := b.selectIDs(streams.Filter{}); len(got) != 1 {
		t.Errorf("dead letters after a replay that failed: %v, want it kept", got)
	}
}

func TestDiscardIsPutOnRecord(t *testing.T) {
	b := setup(t)
	letters := streams.NewDeadLetters(b.js)
	b.must(letters.Store(b.ctx, letter("id-1", "o-1", streams.Exhausted, time.Now())))
	for d, err := range letters.Select(b.ctx, streams.Filter{}) {
		b.must(err)
		b.must(letters.Discard(b.ctx, d, "ann", "test data"))
		if err := letters.Discard(b.ctx, d, "bob", ""); !errors.Is(err, streams.ErrGone) {
			t.Errorf("discarding again: %v, want ErrGone", err)
		}
	}
	if got := b.messages("DLQ"); got != 0 {
		t.Errorf("%d dead letters left", got)
	}
	s, err := b.js.Stream(b.ctx, "NOTICES")
	b.must(err)
	if _, err := s.GetLastMsgForSubject(b.ctx, "notices.discarded"); err != nil {
		t.Errorf("no record of who discarded it: %v", err)
	}
}

func TestGates(t *testing.T) {
	b := setup(t)
	kv, err := b.js.KeyValue(b.ctx, streams.BreakersBucket)
	b.must(err)
	gates := streams.NewGates(kv)
	open := streams.Gate{Capability: quiz.Capability, App: quiz.App, State: streams.GateOpen, Until: time.Now().Add(time.Minute)}
	forced := open
	forced.State, forced.Until = streams.GateForced, time.Time{}
	isForced := func(g streams.Gate) bool { return g.State == streams.GateForced }

	written, err := gates.SetUnless(b.ctx, open, isForced)
	b.must(err)
	if !written {
		t.Error("an open gate was not recorded where there was none")
	}
	b.must(gates.Set(b.ctx, forced))
	if written, err = gates.SetUnless(b.ctx, open, isForced); err != nil || written {
		t.Errorf("a trip overwrote what an operator decided: %v, %v", written, err)
	}
	if cleared, err := gates.ClearIf(b.ctx, quiz, func(g streams.Gate) bool { return g.State == streams.GateOpen }); err != nil || cleared {
		t.Errorf("a recovery undid what an operator decided: %v, %v", cleared, err)
	}
	list, err := gates.List(b.ctx)
	b.must(err)
	if len(list) != 1 || list[0].State != streams.GateForced || list[0].ID() != quiz {
		t.Errorf("List = %+v", list)
	}
	if cleared, err := gates.ClearIf(b.ctx, quiz, isForced); err != nil || !cleared {
		t.Errorf("ClearIf = %v, %v", cleared, err)
	}
	if _, there, err := gates.Get(b.ctx, quiz); err != nil || there {
		t.Errorf("Get after ClearIf = %v, %v", there, err)
	}
	if _, err := kv.Get(b.ctx, "analytics.quiz"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the key is still there: %v", err)
	}
}
