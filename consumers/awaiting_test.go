package consumers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/dispatcher/callback"
	"backstop/streams"
)

// within is the shortest time to call back that a manifest may demand.
const within = time.Second

// demanding is a webhook whose app must call back.
func demanding(retry bool) map[string]any { return demandingWithin(within, retry) }

func demandingWithin(d time.Duration, retry bool) map[string]any {
	return map[string]any{"timeout": 2000, "callback": map[string]any{"within": d.Milliseconds(), "retry": retry}}
}

// office is a bundle that also takes callbacks.
type office struct {
	*bundle
	callbacks *streams.Callbacks
	notices   *nats.Subscription
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{bundle: setup(t)}
	var err error
	o.callbacks, err = streams.NewCallbacks(o.ctx, o.js)
	o.must(err)
	o.notices, err = o.nc.SubscribeSync("notices.callback_missing")
	o.must(err)
	return o
}

// grant returns what a request's callback URL permits.
func (o *office) grant(h http.Header) callback.Grant {
	o.Helper()
	token, ok := strings.CutPrefix(h.Get("X-Callback-URL"), "https://hooks.example.com/callbacks/")
	g, err := callbackIssuer.Read(token, time.Now())
	if !ok || err != nil {
		o.Errorf("X-Callback-URL: %q: %v", h.Get("X-Callback-URL"), err)
	}
	return g
}

// callBack does what the HTTP side does with the callback of a request.
func (o *office) callBack(h http.Header) {
	o.Helper()
	g := o.grant(h)
	err := o.callbacks.Accept(o.ctx, streams.Result{
		ID: g.ID, EndpointID: endpoint(g.Capability, g.App), Kind: streams.ResultCallback, Origin: g.Origin, Payload: []byte(`{}`),
	}, g.Awaited)
	if err != nil {
		o.Error(err) // may be called by a receiver
	}
}

// notice waits for the next notice of a missing callback.
func (o *office) notice() streams.Notice {
	o.Helper()
	msg, err := o.notices.NextMsgWithContext(o.patience)
	o.must(err)
	var n streams.Notice
	o.must(json.Unmarshal(msg.Data, &n))
	return n
}

// entry returns the event's entry in the bucket, and whether there is one.
func (o *office) entry(r request) (streams.Awaited, bool) {
	o.Helper()
	g := o.grant(r.header)
	a, revision, err := o.callbacks.Get(o.ctx, streams.Event{EndpointID: endpoint(g.Capability, g.App), Origin: g.Origin}.CallbackKey())
	o.must(err)
	return a, revision != 0
}

func TestMissingCallbackIsNoticed(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	quiz := newApp(o.bundle, always(202))
	o.start("r1")
	o.apply("quiz", quiz.URL, demanding(false), "report")
	o.publishable("report")
	o.publish(endpoint("report", "quiz"), "id-1", `{}`)
	n := o.notice()
	if n.Kind != streams.NoticeCallbackMissing || n.App != "quiz" || n.Capability != "report" || n.Details["id"] != "id-1" || n.Details["count"] != 1.0 {
		t.Errorf("%+v", n)
	}
	o.eventually("the entry to go", func() bool {
		_, there := o.entry(quiz.received()[0])
		return !there
	})
	o.settled()
	if got := quiz.received(); len(got) != 1 {
		t.Errorf("delivered %d times; the manifest asks for no retry", len(got))
	}
}

// A callback in time, be it after the delivery was settled or before: no
// notice. The event of another app, published later, shows that its time is over.
func TestCallbackInTime(t *testing.T) {
	t.Parallel()
	for name, during := range map[string]bool{"after its entry": false, "before its entry": true} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t)
			quiz := newApp(o.bundle, func(r *http.Request) (int, http.Header, string) {
				if during {
					o.callBack(r.Header)
				}
				return 202, nil, ""
			})
			late := newApp(o.bundle, always(202))
			o.start("r1")
			const patient = 3 * within // for this test, on a slow machine
			o.apply("quiz", quiz.URL, demandingWithin(patient, true), "report")
			o.apply("late", late.URL, demandingWithin(patient, false), "report")
			o.publishable("report")
			o.publish(endpoint("report", "quiz"), "id-1", `{}`)
			o.eventually("the delivery", func() bool { return len(quiz.received()) == 1 })
			if !during {
				o.eventually("the entry", func() bool {
					_, there := o.entry(quiz.received()[0])
					return there
				})
				o.callBack(quiz.received()[0].header)
			}
			o.settled()
			o.publish(endpoint("report", "late"), "id-2", `{}`)
			if n := o.notice(); n.App != "late" {
				t.Errorf("%+v", n)
			}
			if a, there := o.entry(quiz.received()[0]); !there || a.Received.IsZero() || !a.Due.IsZero() || len(a.Payload) > 0 {
				t.Errorf("the entry of a callback that came: %+v", a)
			}
			if got := quiz.received(); len(got) != 1 {
				t.Errorf("delivered %d times", len(got))
			}
		})
	}
}

// With retry the event comes again, three times more at most, with the same id,
// payload and permission, and all its attempts before it; two replicas do no
// more than one.
func TestMissingCallbackIsRetried(t *testing.T) {
	o := newOffice(t)
	var mu sync.Mutex
	failed := map[string]bool{}
	quiz := newApp(o.bundle, func(r *http.Request) (int, http.Header, string) {
		mu.Lock()
		defer mu.Unlock()
		if first := !failed[r.Header.Get("X-Request-Id")]; first { // what attempts it takes is another matter
			failed[r.Header.Get("X-Request-Id")] = true
			return 500, nil, ""
		}
		return 202, nil, ""
	})
	o.start("r1")
	o.start("r2")
	hook := demanding(true)
	hook["retry"] = quick["retry"]
	o.apply("quiz", quiz.URL, hook, "report")
	o.publishable("report")
	payload := "{ \"rows\":\n [1.0] }"
	o.publish(endpoint("report", "quiz"), "id-1", payload)
	o.eventually("the last delivery", func() bool { return len(quiz.received()) >= 5 })
	o.eventually("the entry to go", func() bool {
		_, there := o.entry(quiz.received()[4])
		return !there
	})
	o.settled()
	got := quiz.received()
	if len(got) != 5 {
		t.Fatalf("%d requests, want one that failed and four deliveries", len(got))
	}
	for i, r := range got {
		attempt := "1"
		if i == 1 {
			attempt = "2"
		}
		if r.header.Get("X-Request-Id") != "id-1" || r.payload != payload || r.header.Get("X-Platform-Attempt") != attempt {
			t.Errorf("request %d: %q %v", i, r.payload, r.header)
		}
		if g := o.grant(r.header); !g.Awaited || g.Origin != o.grant(got[0].header).Origin {
			t.Errorf("request %d permits %+v", i, g)
		}
		if i > 1 && r.at.Sub(got[i-1].at) < within {
			t.Errorf("request %d came %v after the one before", i, r.at.Sub(got[i-1].at))
		}
	}
	if n := o.notice(); fmt.Sprint(n.Details["redelivered"]) != "true" {
		t.Errorf("%+v", n)
	}
	if n := len(o.deadLetters()); n != 0 {
		t.Errorf("%d dead letters of a delivered event", n)
	}
}

// A callback between two deliveries ends them.
func TestCallbackEndsRetries(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	first := make(chan http.Header, 1)
	quiz := newApp(o.bundle, func(r *http.Request) (int, http.Header, string) {
		select {
		case first <- r.Header:
		default:
			o.callBack(<-first) // the permission of the first delivery is as good
		}
		return 202, nil, ""
	})
	o.start("r1")
	o.apply("quiz", quiz.URL, demanding(true), "report")
	o.publishable("report")
	o.publish(endpoint("report", "quiz"), "id-1", `{}`)
	o.eventually("the second delivery", func() bool { return len(quiz.received()) == 2 })
	o.settled()
	late := newApp(o.bundle, always(202))
	o.apply("late", late.URL, demanding(false), "report")
	o.publish(endpoint("report", "late"), "id-2", `{}`)
	for o.notice().App != "late" {
	}
	if got := quiz.received(); len(got) != 2 {
		t.Errorf("delivered %d times", len(got))
	}
}

// A replica that died between parking the event and removing its entry: the
// next one does both again, and the app gets the event once more and not twice.
func TestRetryAfterACrash(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	quiz := newApp(o.bundle, func(r *http.Request) (int, http.Header, string) {
		o.callBack(r.Header)
		return 202, nil, ""
	})
	o.apply("quiz", quiz.URL, demanding(true), "report")
	event := streams.Event{ID: "id-1", Origin: "o-1", EndpointID: endpoint("report", "quiz"), Payload: []byte(`{}`), PublishedAt: time.Now()}
	o.must(o.callbacks.Await(o.ctx, event, time.Now().Add(-time.Second), true))
	entry, _, err := o.callbacks.Get(o.ctx, event.CallbackKey())
	o.must(err)
	_, err = o.js.PublishMsg(o.ctx, entry.Again(event.CallbackKey()).LaneMsg())
	o.must(err)

	o.start("r1")
	o.eventually("the callback", func() bool {
		a, _, err := o.callbacks.Get(o.ctx, event.CallbackKey())
		o.must(err)
		return !a.Received.IsZero()
	})
	o.settled()
	if got := quiz.byID()["id-1"]; got != 1 {
		t.Errorf("delivered %d times", got)
	}
}

// The notice is stored before the entry is forgotten; a replica that died in
// between leaves the next one to do both, and nobody is told twice.
func TestMissingCallbackIsNoticedAfterACrash(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	quiz := newApp(o.bundle, always(202))
	o.apply("quiz", quiz.URL, demanding(false), "report")
	event := streams.Event{ID: "id-1", Origin: "o-1", EndpointID: endpoint("report", "quiz"), Payload: []byte(`{}`), PublishedAt: time.Now()}
	overdue := func() { o.must(o.callbacks.Await(o.ctx, event, time.Now().Add(-time.Second), false)) }
	there := func() bool {
		_, revision, err := o.callbacks.Get(o.ctx, event.CallbackKey())
		o.must(err)
		return revision != 0
	}
	notices, err := o.js.Stream(o.ctx, streams.NoticeStream)
	o.must(err)
	tiny := notices.CachedInfo().Config
	tiny.MaxMsgSize = 1 // no notice can be stored
	_, err = o.js.UpdateStream(o.ctx, tiny)
	o.must(err)
	overdue()
	tried := make(chan struct{}, 100)
	sub, err := o.nc.Subscribe("notices.callback_missing", func(*nats.Msg) {
		select {
		case tried <- struct{}{}:
		default:
		}
	})
	o.must(err)
	defer func() { _ = sub.Unsubscribe() }()
	first := o.start("r1")
	for range 2 { // the second time says that the first one failed
		select {
		case <-tried:
		case <-o.patience.Done():
			t.Fatal("it is not tried again")
		}
	}
	if !there() {
		t.Fatal("the entry is gone, and nobody was told")
	}
	o.must(o.topology.Ensure(o.ctx))
	o.eventually("the entry to go", func() bool { return !there() })
	o.must(first.stop())
	if n := o.bundle.notices(streams.NoticeCallbackMissing); n != 1 {
		t.Fatalf("%d notices, want one", n)
	}
	overdue() // as if it had died before it could remove the entry
	o.start("r2")
	o.eventually("the entry to go again", func() bool { return !there() })
	if n := o.bundle.notices(streams.NoticeCallbackMissing); n != 1 {
		t.Errorf("%d notices of one missing callback", n)
	}
}

// An event that would only become a dead letter is not delivered again.
func TestRetryThatCannotHelp(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	quiz := newApp(o.bundle, always(202))
	hook := demanding(true)
	hook["maxAge"] = 1000
	o.apply("old", quiz.URL, hook, "report")
	for _, app := range []string{"old", "unknown"} {
		event := streams.Event{ID: "id-" + app, Origin: "o-1", EndpointID: endpoint("report", app), Payload: []byte(`{}`), PublishedAt: time.Now().Add(-time.Hour)}
		o.must(o.callbacks.Await(o.ctx, event, time.Now().Add(-time.Second), true))
	}
	o.start("r1")
	for range 2 {
		if n := o.notice(); fmt.Sprint(n.Details["redelivered"]) != "false" {
			t.Errorf("%+v", n)
		}
	}
	o.settled()
	if n := len(o.deadLetters()); n != 0 || len(quiz.received()) != 0 {
		t.Errorf("%d dead letters, %d requests", n, len(quiz.received()))
	}
}

// What can't be stored is not acknowledged: an event is delivered again rather
// than its callback forgotten. What nobody can mean is left alone.
func TestEntriesOfStrangers(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	kv, err := o.js.KeyValue(o.ctx, streams.CallbacksBucket)
	o.must(err)
	for key, value := range map[string]string{"no-event": `{}`, "report.quiz.o-1": `nonsense`, "report.quiz.o-2": ``} {
		_, err := kv.PutString(o.ctx, key, value)
		o.must(err)
	}
	old, err := json.Marshal(streams.Awaited{Received: time.Now().Add(-25 * time.Hour)})
	o.must(err)
	_, err = kv.Put(o.ctx, "report.quiz.received-long-ago", old)
	o.must(err)
	o.start("r1")
	o.eventually("what is old to be removed", func() bool {
		_, err := kv.Get(o.ctx, "report.quiz.received-long-ago")
		return errors.Is(err, jetstream.ErrKeyNotFound)
	})
	for _, key := range []string{"no-event", "report.quiz.o-1", "report.quiz.o-2"} {
		if _, err := kv.Get(o.ctx, key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	if msg, err := o.notices.NextMsg(time.Millisecond); err == nil {
		t.Errorf("a notice: %s", msg.Data)
	}
}
