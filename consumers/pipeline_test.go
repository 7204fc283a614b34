package consumers_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers"
	"backstop/streams"
)

func TestDeliversByteForByte(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, always(200))
	b.start("r1")
	b.apply("quiz", quiz.URL, quick, "analytics")
	b.publishable("analytics")
	payload := "{ \"score\" : 1.50,\n\t\"name\":\"Zoë\" }"
	b.publish(endpoint("analytics", "quiz"), "id-1", payload)
	b.eventually("the delivery", func() bool { return len(quiz.received()) == 1 })
	r := quiz.received()[0]
	if r.payload != payload || r.path != "/analytics" {
		t.Errorf("received %q on %s", r.payload, r.path)
	}
	for name, want := range map[string]string{"X-Request-Id": "id-1", "X-Platform-Attempt": "1", "X-Platform-App": "quiz", "X-Platform-Capability": "analytics"} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	b.settled()
	if n := len(b.deadLetters()); n != 0 {
		t.Errorf("%d dead letters of a delivered event", n)
	}
}

// TestVerdicts: what each kind of answer makes of an event.
func TestVerdicts(t *testing.T) {
	b := setup(t)
	b.start("r1")
	for name, tc := range map[string]struct {
		answer   func(*http.Request) (int, http.Header, string)
		attempts int
		reason   streams.DeadLetterReason // empty: delivered
		status   int
	}{
		"ok":       {always(204), 1, "", 0},
		"accepted": {always(202), 1, "", 0},
		"says-no": {func(*http.Request) (int, http.Header, string) {
			return 200, nil, `{"success":false,"error":{"code":"X","message":"no"}}`
		}, 1, streams.RejectedByApp, 200},
		"not-now": {func(*http.Request) (int, http.Header, string) {
			return 200, nil, `{"success":false,"error":{"code":"X","message":"no","retryable":true}}`
		}, 3, streams.Exhausted, 200},
		"moved":     {always(302), 1, streams.RejectedByApp, 302},
		"bad":       {always(422), 1, streams.RejectedByApp, 422},
		"forbidden": {always(403), 3, streams.Exhausted, 403},
		"broken":    {always(500), 3, streams.Exhausted, 500},
		"gone":      {always(410), 1, streams.EndpointDisabled, 410},
	} {
		t.Run(name, func(t *testing.T) {
			receiver := newApp(b, tc.answer)
			b.apply(name, receiver.URL, quick, "analytics")
			b.publishable("analytics")
			id := endpoint("analytics", name)
			// The manifest may not have reached the pipeline when its
			// capability has had a stream before.
			b.publish(id, "id-"+name, `{}`)
			if tc.reason == "" {
				b.eventually("the delivery", func() bool { return len(receiver.received()) == tc.attempts })
				return
			}
			var letter streams.DeadLetter
			b.eventually("the dead letter", func() bool {
				for d, err := range b.letters.Select(b.ctx, streams.Filter{App: name}) {
					b.must(err)
					letter = d
				}
				return letter.ID != ""
			})
			if letter.Reason != tc.reason || letter.Attempts != tc.attempts || letter.Status != tc.status || letter.ID != "id-"+name {
				t.Errorf("dead letter %+v, want reason %s after %d attempts with status %d", letter, tc.reason, tc.attempts, tc.status)
			}
			if got := len(receiver.received()); got != tc.attempts {
				t.Errorf("%d requests, want %d", got, tc.attempts)
			}
			for i, r := range receiver.received() {
				if got := r.header.Get("X-Platform-Attempt"); got != fmt.Sprint(i+1) {
					t.Errorf("request %d says it is attempt %s", i+1, got)
				}
			}
		})
	}
}

// TestNamesThatNoAppCanHave: a publisher may name what NATS takes for a token.
// It becomes a dead letter like any other, and the pipeline goes on. With the
// longest, the server once closed the pipeline's connection for good.
func TestNamesThatNoAppCanHave(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	conn := b.srv.Conn()
	js, err := jetstream.New(conn)
	b.must(err)
	b.start("r1", func(c *consumers.Config) { c.JetStream = js })
	b.publishable("analytics")
	names := []string{"_", "*", ">", strings.Repeat("x", 4096-2-len("events.analytics."))}
	for _, name := range names {
		b.must(b.nc.Publish("events.analytics."+name, []byte(`{}`)))
	}
	for _, d := range b.awaitDeadLetters(len(names)) {
		if d.Reason != streams.NoRoute || d.App == "" || !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, strings.TrimSuffix(d.App, "…")) }) {
			t.Errorf("a dead letter of app %q (%s: %s)", d.App, d.Reason, d.Err)
		}
		if err := b.letters.Replay(b.ctx, d); !errors.Is(err, streams.ErrNoSuchName) {
			t.Errorf("replaying that of app %q: %v", d.App, err)
		}
	}
	b.settled()
	if conn.IsClosed() {
		t.Errorf("the connection was closed: %v", conn.LastError())
	}
	if n := len(quiz.received()); n > 0 {
		t.Errorf("%d requests for events of others", n)
	}
}

// TestLargeHeaders: NATS takes headers of 64 KiB, which leaves no room for ours.
// Of a trace context that long nothing is kept, and the event goes its way.
func TestLargeHeaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(503))
	hook := maps.Clone(quick)
	hook["breaker"] = map[string]any{"failureThreshold": 1000}
	b.apply("quiz", quiz.URL, hook, "analytics")
	b.start("r1")
	b.publishable("analytics")
	subjects := []string{"events.analytics", "events.analytics.quiz", "events.analytics.nobody"} // is copied, parked, buried
	for _, subject := range subjects {
		msg := nats.NewMsg(subject)
		msg.Data = []byte(`{}`)
		msg.Header.Set("tracestate", strings.Repeat("x", 65535-26))
		_, err := b.js.PublishMsg(b.ctx, msg)
		b.must(err)
	}
	b.awaitDeadLetters(len(subjects))
	b.settled()
}

// narrow refuses what a stream might not take: everything for lanes, and dead
// letters with an error.
type narrow struct{ jetstream.JetStream }

func (n narrow) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	switch {
	case strings.HasPrefix(msg.Subject, "lanes."):
		return nil, nats.ErrMaxPayload
	case strings.HasPrefix(msg.Subject, "dlq.") && msg.Header.Get(streams.HeaderError) != "":
		return nil, &jetstream.APIError{Code: 400, ErrorCode: 10097, Description: "header size exceeds maximum allowed of 64k"}
	}
	return n.JetStream.PublishMsg(ctx, msg, opts...)
}

// TestWhatNeverFitsIsGivenUp: an event that can't be parked becomes a dead
// letter, and that, if need be, one with fewer headers. Trying again for ever
// held up all that came after it.
func TestWhatNeverFitsIsGivenUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(500))
	b.apply("quiz", quiz.URL, quick, "analytics")
	b.start("r1", func(c *consumers.Config) { c.JetStream = narrow{b.js} })
	b.publishable("analytics")
	b.publish(endpoint("analytics", "quiz"), "e1", `{}`)
	if d := b.awaitDeadLetters(1)[0]; d.ID != "e1" || d.Reason != streams.BadPayload || d.Attempts != 1 || string(d.Payload) != `{}` {
		t.Errorf("dead letter %+v", d)
	}
	b.settled()
}

func TestBadInputIsDeadLetteredAtFirstSight(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, always(200))
	b.start("r1")
	b.apply("quiz", quiz.URL, quick, "analytics")
	b.apply("sync", quiz.URL, map[string]any{"async": false}, "analytics")
	b.publishable("analytics")
	publish := func(app, id string, payload []byte) {
		t.Helper()
		msg := nats.NewMsg("events.analytics." + app)
		msg.Data = payload
		msg.Header.Set("Nats-Msg-Id", id)
		_, err := b.js.PublishMsg(b.ctx, msg)
		b.must(err)
	}
	b.eventually("the sync webhook to be known", func() bool { // its manifest came last
		_, _, err := b.manifests.Get(b.ctx, "sync")
		return err == nil
	})
	cases := map[string]struct {
		app     string
		payload string
		reason  streams.DeadLetterReason
	}{
		"not-json":  {"quiz", "{nope", streams.BadPayload},
		"not-utf-8": {"quiz", "\"\xff\xfe\"", streams.BadPayload},
		"empty":     {"quiz", "", streams.BadPayload},
		"too-large": {"quiz", `"` + strings.Repeat("x", streams.MaxPayload) + `"`, streams.BadPayload},
		"unknown":   {"nobody", "{}", streams.NoRoute},
		"odd-token": {"q!z(ü)", "{}", streams.NoRoute},
		"sync-only": {"sync", "{}", streams.NoRoute},
	}
	for id, tc := range cases {
		publish(tc.app, id, []byte(tc.payload))
	}
	for _, d := range b.awaitDeadLetters(len(cases)) {
		tc := cases[d.ID]
		if d.Reason != tc.reason || d.App != tc.app || string(d.Payload) != tc.payload || d.Attempts != 0 || d.Err == "" {
			t.Errorf("%s: dead letter at %s because of %s (%q) after %d attempts", d.ID, d.EndpointID, d.Reason, d.Err, d.Attempts)
		}
	}
	if n := len(quiz.received()); n != 0 {
		t.Errorf("%d requests were made", n)
	}
	b.settled()
}

func TestBroadcastReachesEveryAsyncApp(t *testing.T) {
	b := setup(t)
	good, bad := newApp(b, always(200)), newApp(b, always(422))
	b.apply("a", good.URL, quick, "report")
	b.apply("b", good.URL, quick, "report")
	b.apply("c", bad.URL, quick, "report")
	b.apply("other", good.URL, quick, "analytics")
	b.start("r1")
	b.publish(endpoint("report", ""), "all-1", `{"n":1}`)
	b.eventually("the deliveries", func() bool { return len(good.received()) == 2 && len(bad.received()) == 1 })
	d := b.awaitDeadLetters(1)[0]
	if d.App != "c" || d.ID != "all-1" || d.Reason != streams.RejectedByApp {
		t.Errorf("dead letter %+v, want that of app c under the broadcast's id", d)
	}
	for _, r := range good.received() {
		if r.header.Get("X-Request-Id") != "all-1" || r.payload != `{"n":1}` {
			t.Errorf("received %s %q", r.header.Get("X-Request-Id"), r.payload)
		}
	}
	b.settled()
}

// unsteady is JetStream with publishes that fail once, by their subject.
type unsteady struct {
	jetstream.JetStream
	mu   sync.Mutex
	fail map[string]error
}

func (u *unsteady) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	u.mu.Lock()
	err := u.fail[msg.Subject]
	delete(u.fail, msg.Subject)
	u.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return u.JetStream.PublishMsg(ctx, msg, opts...)
}

// TestFanOutThatIsRepeated: when one copy of a broadcast can't be stored, those
// that are, wherever, are not stored again.
func TestFanOutThatIsRepeated(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		why    string
		err    error
		parked uint64
	}{
		{"a full stream: the copy goes to LANES", &jetstream.APIError{Code: 503, ErrorCode: 10077}, 1},
		{"an election: nobody answers, and the copy can wait", jetstream.ErrNoStreamResponse, 0},
	} {
		t.Run(c.why, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			one, two := newApp(b, always(200)), newApp(b, always(200))
			b.apply("one", one.URL, quick, "report")
			b.apply("two", two.URL, quick, "report")
			js := &unsteady{JetStream: b.js, fail: map[string]error{"events.report.one": c.err, "events.report.two": context.DeadlineExceeded}}
			b.start("r1", func(cfg *consumers.Config) { cfg.JetStream = js })
			b.publish(endpoint("report", ""), "all-1", `{}`)
			b.eventually("the deliveries", func() bool { return len(one.received()) > 0 && len(two.received()) > 0 })
			b.settled()
			if one, two := len(one.received()), len(two.received()); one != 1 || two != 1 {
				t.Errorf("one got it %d times, two %d times", one, two)
			}
			s, err := b.js.Stream(b.ctx, streams.LaneStream)
			b.must(err)
			if parked := s.CachedInfo().State.LastSeq; parked != c.parked {
				t.Errorf("%d copies went to LANES, want %d", parked, c.parked)
			}
		})
	}
}

func TestExpiredEventsAreNotDelivered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, map[string]any{"maxAge": 1000}, "analytics")
	b.must(b.topology.EnsureCapability(b.ctx, "analytics"))
	b.publish(endpoint("analytics", "quiz"), "old", `{}`)
	published := time.Now()
	b.eventually("the event to grow old", func() bool { return time.Since(published) > 1100*time.Millisecond })
	b.start("r1")
	if d := b.awaitDeadLetters(1)[0]; d.Reason != streams.Expired || d.Attempts != 0 {
		t.Errorf("dead letter %+v, want expired without an attempt", d)
	}
	if n := len(quiz.received()); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

func TestBackoffGrowsAndHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	b := setup(t)
	exponential, polite := newApp(b, always(500)), newApp(b, func(*http.Request) (int, http.Header, string) {
		return 503, http.Header{"Retry-After": {"1"}}, ""
	})
	b.apply("exponential", exponential.URL, map[string]any{"retry": map[string]any{"maxAttempts": 4, "initialDelay": 200, "maxDelay": 10000}}, "analytics")
	b.apply("polite", polite.URL, map[string]any{"retry": map[string]any{"maxAttempts": 2, "initialDelay": 10, "maxDelay": 10}}, "analytics")
	b.start("r1")
	b.publish(endpoint("analytics", "exponential"), "e", `{}`)
	b.publish(endpoint("analytics", "polite"), "p", `{}`)
	b.awaitDeadLetters(2)
	for app, least := range map[*app][]time.Duration{
		exponential: {160 * time.Millisecond, 320 * time.Millisecond, 640 * time.Millisecond}, // less 20% jitter
		polite:      {time.Second},
	} {
		requests := app.received()
		for i, want := range least {
			if gap := requests[i+1].at.Sub(requests[i].at); gap < want {
				t.Errorf("attempt %d came %v after the one before, want at least %v", i+2, gap, want)
			}
		}
	}
}

func TestManifestTakesEffectWithoutRestart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first, second := newApp(b, always(200)), newApp(b, always(200))
	b.start("r1")
	b.apply("quiz", first.URL, quick, "analytics")
	b.publishable("analytics")
	b.publish(endpoint("analytics", "quiz"), "1", `{}`)
	b.eventually("the first delivery", func() bool { return len(first.received()) == 1 })

	b.apply("quiz", second.URL, quick, "analytics")
	applied := time.Now()
	for i := 0; len(second.received()) == 0; i++ {
		b.publish(endpoint("analytics", "quiz"), fmt.Sprintf("2-%d", i), `{}`)
		if time.Since(applied) > time.Second {
			t.Fatal("a manifest took longer than a second to take effect")
		}
	}

	b.must(b.manifests.Delete(b.ctx, "quiz"))
	b.eventually("publishing to fail", func() bool {
		_, err := b.publisher.Publish(b.ctx, endpoint("analytics", "quiz"), "", []byte(`{}`))
		return errors.Is(err, streams.ErrNoStream)
	})
	b.settled()
}

func TestMaxDeliverAdvisoriesBecomeDeadLetters(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	b.must(b.topology.EnsureCapability(b.ctx, "analytics"))
	// A worker that dies at every delivery, while no pipeline runs. With a
	// short ack wait in place of ours, as nothing else depends on it.
	cons, err := b.js.Consumer(b.ctx, "EVENTS_analytics", "webhooks")
	b.must(err)
	cfg := cons.CachedInfo().Config
	cfg.AckWait = 20 * time.Millisecond
	cons, err = b.js.UpdateConsumer(b.ctx, "EVENTS_analytics", cfg)
	b.must(err)
	b.publish(endpoint("analytics", "quiz"), "killer", `{}`)
	_, err = b.js.Publish(b.ctx, "events.analytics.*", []byte(`{}`), jetstream.WithMsgID("stray"))
	b.must(err)
	handed := 0
	b.eventually("the broker to give up", func() bool {
		batch, err := cons.Fetch(2, jetstream.FetchMaxWait(100*time.Millisecond))
		b.must(err)
		for range batch.Messages() {
			handed++
		}
		s, err := b.js.Stream(b.ctx, "ADVISORIES")
		b.must(err)
		return s.CachedInfo().State.Msgs == 2
	})
	b.start("r1")
	for _, d := range b.awaitDeadLetters(2) {
		killer := d.Reason == streams.CrashLoop && d.ID == "killer" && d.App == "quiz"
		stray := d.Reason == streams.NoRoute && d.ID == "stray" && d.App == "*"
		if !killer && !stray {
			t.Errorf("after %d deliveries: dead letter %+v, want crash_loop, and no_route of the stray", handed, d)
		}
	}
	if n := len(quiz.received()); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

// TestWhatIsDeletedByHandIsMadeAnew: without the durable of ADVISORIES nothing
// is trimmed, and without LANES, DLQ or a bucket events stand still.
func TestWhatIsDeletedByHandIsMadeAnew(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(400))
	b.apply("quiz", quiz.URL, quick, "analytics")
	b.start("r1")
	b.publishable("analytics")
	b.must(b.js.DeleteConsumer(b.ctx, streams.AdvisoryStream, streams.AdvisoryConsumer))
	b.eventually("the durable of advisories", func() bool {
		_, err := b.js.Consumer(b.ctx, streams.AdvisoryStream, streams.AdvisoryConsumer)
		return err == nil
	})
	deleted := []string{streams.LaneStream, streams.DeadLetterStream, streams.NoticeStream, "KV_" + streams.HealthBucket}
	for _, name := range deleted {
		b.must(b.js.DeleteStream(b.ctx, name))
	}
	b.publish(endpoint("analytics", "quiz"), "e1", `{}`)
	for _, name := range deleted {
		b.eventually(name, func() bool {
			_, err := b.js.Stream(b.ctx, name)
			return err == nil
		})
	}
	b.awaitDeadLetters(1)
	b.settled()
}

// TestRetiredCapabilityStaysSo: its durable, when somebody deletes it, is made
// anew, and its stream takes no events for all that.
func TestRetiredCapabilityStaysSo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	b.start("r1")
	b.publishable("analytics")
	b.must(b.manifests.Delete(b.ctx, "quiz"))
	open := func() bool {
		open, err := b.topology.Open(b.ctx, "analytics")
		b.must(err)
		return open
	}
	b.eventually("the capability to be retired", func() bool { return !open() })
	b.must(b.js.DeleteConsumer(b.ctx, streams.EventStream("analytics"), streams.EventConsumer))
	b.eventually("the durable", func() bool {
		_, err := b.js.Consumer(b.ctx, streams.EventStream("analytics"), streams.EventConsumer)
		return err == nil
	})
	if open() {
		t.Error("it takes events again")
	}
}

// An event that is published right after its manifest was applied, to a
// capability that exists, must not be dead-lettered because the manifest is
// still on its way through the watch.
func TestManifestAppliedJustBeforeThePublish(t *testing.T) {
	b := setup(t)
	receiver := newApp(b, always(200))
	b.apply("first", receiver.URL, quick, "analytics")
	b.start("r1")
	const apps = 50
	for i := range apps {
		name := fmt.Sprintf("app%d", i)
		b.apply(name, receiver.URL, quick, "analytics")
		b.publish(endpoint("analytics", name), name, `{}`)
	}
	b.eventually("all deliveries", func() bool { return len(receiver.received())+len(b.deadLetters()) == apps })
	if dead := b.deadLetters(); len(dead) > 0 {
		t.Errorf("%d of %d events were dead-lettered: %s", len(dead), apps, dead[0].Err)
	}
}

// NATS cuts a connection off for which 64 MiB wait. Lanes that find a flood of
// large events ask for no more than arrives.
func TestLargeEventsDontCostTheConnection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var capabilities []string
	for i := range 8 {
		capabilities = append(capabilities, fmt.Sprint("large", i))
	}
	receiver := newApp(b, always(http.StatusOK))
	b.apply("quiz", receiver.URL, nil, capabilities...)
	p := b.start("first")
	for _, c := range capabilities {
		b.publishable(c)
	}
	b.must(p.stop())
	payload := `"` + strings.Repeat("x", 250<<10) + `"`
	const each = 50 // 100 MB
	for _, c := range capabilities {
		for i := range each {
			b.publish(streams.EndpointID{Capability: c, App: "quiz"}, fmt.Sprintf("%s-%d", c, i), payload)
		}
	}
	b.start("second")
	b.eventually("all events", func() bool { return len(receiver.byID()) == each*len(capabilities) })
	if n := b.nc.Stats().Reconnects; n > 0 {
		t.Errorf("the connection to NATS was lost %d times", n)
	}
}
