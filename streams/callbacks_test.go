package streams_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"backstop/streams"
	"backstop/streams/bucket"
)

func TestResultSurvivesTheWire(t *testing.T) {
	for _, kind := range []streams.ResultKind{streams.ResultCallback, streams.ResultApproved, streams.ResultRejected} {
		want := streams.Result{ID: "id-1", EndpointID: quiz, Kind: kind, Origin: "o-1", Payload: []byte("{ \"a\": 1 }")}
		msg := want.Msg()
		got, err := streams.DecodeResult(msg.Subject, msg.Header, msg.Data)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v %v, want %+v", got, err, want)
		}
	}
	for _, subject := range []string{"results.analytics", "events.analytics.quiz", "results", "results.a.b.c", "results.*.quiz"} {
		if _, err := streams.DecodeResult(subject, nil, nil); err == nil {
			t.Errorf("%s is no result's subject", subject)
		}
	}
}

func TestResultIsDeduplicatedByOriginAndKind(t *testing.T) {
	b := setup(t)
	callback := streams.Result{ID: "id-1", EndpointID: quiz, Kind: streams.ResultCallback, Origin: "o-1", Payload: []byte(`{}`)}
	decision, later, anonymous := callback, callback, callback
	decision.Kind, later.Origin, anonymous.Origin = streams.ResultApproved, "o-2", ""
	for _, r := range []streams.Result{callback, callback, decision, decision, later, anonymous, anonymous} {
		_, err := b.js.PublishMsg(b.ctx, r.Msg())
		b.must(err)
	}
	if n := b.messages(streams.ResultStream); n != 5 {
		t.Errorf("%d results, want one each of the callback, the decision and the later event, and two of no origin", n)
	}
}

func TestAwaitAndAcceptInAnyOrder(t *testing.T) {
	b := setup(t)
	callbacks, err := streams.NewCallbacks(b.ctx, b.js)
	b.must(err)
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	event := streams.Event{ID: "id-1", EndpointID: quiz, Payload: []byte("{\n \"a\": 1\n}"), PublishedAt: start, Hops: 2, TraceParent: "00-a", TraceState: "b"}
	await := func(origin string, hops int, due time.Duration, retry bool) {
		e := event
		e.Origin, e.Hops = origin, hops
		b.must(callbacks.Await(b.ctx, e, start.Add(due), retry))
	}
	accept := func(origin string) {
		b.must(callbacks.Accept(b.ctx, streams.Result{ID: "id-1", EndpointID: quiz, Kind: streams.ResultCallback, Origin: origin}, true))
	}
	get := func(origin string) (streams.Awaited, uint64) {
		a, revision, err := callbacks.Get(b.ctx, streams.CallbackKey("analytics.quiz."+origin))
		b.must(err)
		return a, revision
	}

	await("o-1", 2, time.Minute, true)
	await("o-1", 2, time.Hour, true)
	a, _ := get("o-1")
	if !a.Due.Equal(start.Add(time.Minute)) {
		t.Errorf("settling the same delivery again moved the time to %v", a.Due)
	}
	want := event
	want.Origin, want.Redeliveries = "o-1", 1
	if got := a.Again("analytics.quiz.o-1"); !reflect.DeepEqual(got, want) {
		t.Errorf("to be delivered again:\n%+v, want\n%+v", got, want)
	}
	await("o-1", 3, time.Hour, true)
	if a, _ := get("o-1"); !a.Due.Equal(start.Add(time.Hour)) {
		t.Errorf("a later delivery left the time at %v", a.Due)
	}
	accept("o-1")
	_, revision := get("o-1")
	accept("o-1")
	await("o-1", 4, time.Hour, true)
	if a, now := get("o-1"); a.Received.IsZero() || now != revision {
		t.Errorf("after the callback: %+v, revision %d and then %d", a, revision, now)
	}

	accept("o-2")
	await("o-2", 0, time.Minute, false)
	if a, _ := get("o-2"); a.Received.IsZero() {
		t.Errorf("a callback that was faster was lost: %+v", a)
	}

	await("o-3", 0, time.Minute, false)
	if a, _ := get("o-3"); len(a.Payload) > 0 {
		t.Errorf("a payload is kept that nobody will need: %q", a.Payload)
	}
}

func TestForgetRemovesOnlyWhatWasSeen(t *testing.T) {
	b := setup(t)
	callbacks, err := streams.NewCallbacks(b.ctx, b.js)
	b.must(err)
	event := streams.Event{ID: "id-1", Origin: "o-1", EndpointID: quiz}
	b.must(callbacks.Await(b.ctx, event, time.Now(), false))
	_, seen, err := callbacks.Get(b.ctx, event.CallbackKey())
	b.must(err)
	b.must(callbacks.Accept(b.ctx, streams.Result{EndpointID: quiz, Kind: streams.ResultCallback, Origin: "o-1"}, true))
	if err := callbacks.Forget(b.ctx, event.CallbackKey(), seen); !errors.Is(err, bucket.ErrConflict) {
		t.Errorf("%v, want a conflict with the callback that came", err)
	}
	_, now, err := callbacks.Get(b.ctx, event.CallbackKey())
	b.must(err)
	b.must(callbacks.Forget(b.ctx, event.CallbackKey(), now))
	if _, revision, err := callbacks.Get(b.ctx, event.CallbackKey()); err != nil || revision != 0 {
		t.Errorf("revision %d %v after it was removed", revision, err)
	}
	b.must(callbacks.Await(b.ctx, event, time.Now(), false)) // and can be made again
}
