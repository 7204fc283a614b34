package consumers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers"
	"backstop/streams"
	"backstop/streams/manifest"
)

// A dead app fills LANES; its events go on when it works again. They did not:
// each of its last attempts waited, in the only place of its window, for room
// that only they could make.
func TestFullLanesDrain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(500))
	hook := fragile(300)
	hook["retry"] = map[string]any{"maxAttempts": 20, "initialDelay": 10, "maxDelay": 20}
	b.apply("quiz", quiz.URL, hook, "analytics")
	lanes, err := b.js.Stream(b.ctx, streams.LaneStream)
	b.must(err)
	config := lanes.CachedInfo().Config
	config.MaxBytes = 256 << 10
	_, err = b.js.UpdateStream(b.ctx, config)
	b.must(err)
	b.start("r1")
	const events, size = 60, 10 << 10 // more than twice what fits
	for i := range events {
		b.publish(endpoint("analytics", "quiz"), fmt.Sprint("e", i), `"`+strings.Repeat("x", size)+`"`)
	}
	b.eventually("LANES to be full", func() bool {
		info, err := lanes.Info(b.ctx)
		b.must(err)
		return info.State.Bytes > uint64(config.MaxBytes-2*size)
	})
	failed := len(quiz.received())
	b.eventually("a probe to fail with LANES full", func() bool { return len(quiz.received()) > failed })
	quiz.forget()
	quiz.setAnswer(always(200))
	b.eventually("all events", func() bool { return len(quiz.byID())+len(b.deadLetters()) == events })
	if n := len(b.deadLetters()); n > 0 {
		t.Errorf("%d of the events are dead letters", n)
	}
}

// While calls take all of an endpoint's concurrency, its events wait at the
// broker. They were pulled and put back once a second, and dead letters after
// half a minute for having been handed out so often.
func TestEventsWaitForCallsAtTheBroker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	release := make(chan bool)
	quiz := newApp(b, func(r *http.Request) (int, http.Header, string) {
		if r.Header.Get("X-Request-Id") == "call" {
			<-release
		}
		return 200, nil, `{"success":true}`
	})
	b.apply("quiz", quiz.URL, takesCalls(map[string]any{"timeout": 10000, "concurrency": 1}), "score")
	p := b.start("r1", b.withFallbacks)
	answered := make(chan bool)
	go func() {
		defer close(answered)
		b.ask("calls.score.quiz", `{}`, "Nats-Msg-Id", "call")
	}()
	b.eventually("the call", func() bool { return len(quiz.received()) == 1 })
	b.must(p.Enqueue(b.ctx, streams.Event{ID: "queued", EndpointID: endpoint("score", "quiz"), Payload: []byte(`{}`)}))
	id := endpoint("score", "quiz")
	b.eventually("its lane", func() bool { return b.lane(id) != nil })
	b.throughout(3*time.Second, func() {
		if n := b.lane(id).Delivered.Consumer; n > 1 {
			t.Fatalf("the event was handed out %d times while a call was made", n)
		}
	})
	close(release)
	<-answered
	b.eventually("the event", func() bool { return quiz.byID()["queued"] == 1 })
}

// What waits for an endpoint that is disabled becomes dead letters, even while
// its breaker is open.
func TestDisabledBehindAnOpenBreaker(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	id := endpoint("analytics", "quiz")
	b.start("r1")
	b.publishable("analytics")
	set := func(state streams.GateState) {
		b.must(b.gates.Set(b.ctx, streams.Gate{Capability: id.Capability, App: id.App, State: state, Since: time.Now()}))
	}
	set(streams.GateForced)
	published := 0 // some before the gate was heard of
	b.eventually("events to be parked", func() bool {
		b.publish(id, fmt.Sprint("e", published), `{}`)
		published++
		i := b.lane(id)
		return i != nil && i.NumPending >= 3
	})
	set(streams.GateDisabled)
	for _, d := range b.awaitDeadLetters(published - len(quiz.received())) {
		if d.Reason != streams.EndpointDisabled {
			t.Errorf("%s is a dead letter for %s", d.ID, d.Reason)
		}
	}
}

// An app that asks to be left alone is, also when it says so to an event's last
// attempt.
func TestPauseOfALastAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, func(r *http.Request) (int, http.Header, string) {
		if r.Header.Get("X-Request-Id") == "first" {
			return 429, http.Header{"Retry-After": {"2"}}, ""
		}
		return 200, nil, ""
	})
	b.apply("quiz", quiz.URL, map[string]any{"retry": map[string]any{"maxAttempts": 1}}, "analytics")
	id := endpoint("analytics", "quiz")
	b.start("r1")
	b.publishable("analytics")
	b.publish(id, "first", `{}`)
	b.awaitDeadLetters(1)
	b.publish(id, "second", `{}`)
	b.eventually("the second event", func() bool { return quiz.byID()["second"] == 1 })
	all := quiz.received()
	if gap := all[1].at.Sub(all[0].at); gap < 1900*time.Millisecond {
		t.Errorf("the next request came %v after the app had asked for 2 s", gap)
	}
}

// An app that is removed and applied again gets what is published to it at
// once. Its endpoint was known, and not declared, so that nobody asked the bucket.
func TestAppliedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("keep", quiz.URL, quick, "analytics")
	b.apply("fresh", quiz.URL, quick, "analytics")
	b.start("r1")
	b.publishable("analytics")
	const rounds = 60
	for i := range rounds {
		b.must(b.manifests.Delete(b.ctx, "fresh"))
		<-time.After(10 * time.Millisecond) // about what the watch takes
		b.apply("fresh", quiz.URL, quick, "analytics")
		b.publish(endpoint("analytics", "fresh"), fmt.Sprint("e", i), `{}`)
		b.eventually("the event", func() bool { return len(quiz.byID())+len(b.deadLetters()) == i+1 })
	}
	if all := b.deadLetters(); len(all) > 0 {
		t.Errorf("%d of %d events became dead letters (%s)", len(all), rounds, all[0].Reason)
	}
}

// lateKV tells its watchers everything a moment late, and doesn't answer some
// reads.
type lateKV struct {
	jetstream.KeyValue
	by   time.Duration
	fail atomic.Int64
}

func (k *lateKV) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	if k.fail.Add(-1) >= 0 {
		return nil, context.DeadlineExceeded
	}
	return k.KeyValue.Get(ctx, key)
}

func (k *lateKV) WatchFiltered(ctx context.Context, keys []string, opts ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	w, err := k.KeyValue.WatchFiltered(ctx, keys, opts...)
	if err != nil {
		return nil, err
	}
	late := make(chan jetstream.KeyValueEntry)
	go func() {
		defer close(late)
		for e := range w.Updates() {
			<-time.After(k.by)
			select {
			case late <- e:
			case <-ctx.Done():
			}
		}
	}()
	return lateWatcher{w, late}, nil
}

type lateWatcher struct {
	jetstream.KeyWatcher
	late chan jetstream.KeyValueEntry
}

func (w lateWatcher) Updates() <-chan jetstream.KeyValueEntry { return w.late }

// A manifest is stored, on its way here, and the bucket doesn't answer: that is
// not to say that there is none.
func TestNoAnswerIsNoMissingManifest(t *testing.T) {
	t.Parallel()
	b := setup(t)
	apps, err := b.js.KeyValue(b.ctx, streams.AppsBucket)
	b.must(err)
	kv := &lateKV{KeyValue: apps, by: 200 * time.Millisecond}
	quiz := newApp(b, always(200))
	b.apply("keep", quiz.URL, quick, "analytics")
	b.start("r1", func(c *consumers.Config) { c.Manifests = manifest.NewStore(kv, c.Log) })
	b.publishable("analytics")
	kv.fail.Store(1)
	b.apply("fresh", quiz.URL, quick, "analytics")
	b.publish(endpoint("analytics", "fresh"), "fresh", `{}`)
	b.eventually("the event", func() bool { return len(quiz.byID())+len(b.deadLetters()) == 1 })
	for _, d := range b.deadLetters() {
		t.Errorf("%s is a dead letter: %s (%s)", d.ID, d.Reason, d.Err)
	}
}

// Apps that hang with large events in their hands don't stop the pull for the
// others, however many capabilities there are.
func TestHangingAppsWithLargeEvents(t *testing.T) {
	t.Parallel()
	b := setup(t)
	bad, good := newApp(b, hang(b)), newApp(b, always(200))
	hook := map[string]any{"timeout": 20000, "breaker": map[string]any{"failureThreshold": 1000}}
	const hanging = 12
	for i := range hanging {
		b.apply(fmt.Sprint("bad", i), bad.URL, hook, "analytics")
	}
	b.apply("good", good.URL, quick, "analytics")
	var idle []string
	for i := range 31 {
		idle = append(idle, fmt.Sprint("idle", i))
	}
	b.apply("idle", good.URL, quick, idle...)
	b.start("r1", func(c *consumers.Config) { c.Drain = time.Second })
	b.publishable("analytics")
	payload := `"` + strings.Repeat("x", 200<<10) + `"`
	for n := range 8 {
		for i := range hanging {
			b.publish(endpoint("analytics", fmt.Sprint("bad", i)), fmt.Sprintf("b%d-%d", i, n), payload)
		}
	}
	began := time.Now()
	b.publish(endpoint("analytics", "good"), "g", `{}`)
	b.eventually("the healthy app's event", func() bool { return len(good.byID()) > 0 })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v, as long as those that hang have", took)
	}
}

// slowly answers questions about advisories late, and keeps those who read them
// from the stream for a while.
type slowly struct {
	jetstream.JetStream
	b *bundle
}

func (s *slowly) Consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	c, err := s.JetStream.Consumer(ctx, stream, name)
	if stream == streams.AdvisoryStream && err == nil {
		for began := time.Now(); time.Since(began) < 4*time.Second; <-time.After(50 * time.Millisecond) {
			if shared, err := s.b.js.Consumer(ctx, streams.EventStream("analytics"), streams.EventConsumer); err == nil && shared.CachedInfo().AckFloor.Stream > 80 {
				break
			}
		}
	}
	return c, err
}

func (s *slowly) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if _, reader := ctx.Deadline(); reader && name == streams.EventStream("analytics") {
		<-time.After(3 * time.Second)
	}
	return s.JetStream.Stream(ctx, name)
}

// The broker gives up on an event between the trimmer's look at the advisories
// and its look at the ack floor, which passes the event. It becomes a dead letter
// all the same, and is not purged.
func TestTrimmerLeavesWhatTheBrokerJustGaveUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	first := b.start("r0")
	b.publishable("analytics")
	b.must(first.stop())
	id := endpoint("analytics", "quiz")
	b.publish(id, "m", `{}`)
	cons, err := b.js.Consumer(b.ctx, streams.EventStream("analytics"), streams.EventConsumer)
	b.must(err)
	most := cons.CachedInfo().Config.MaxDeliver
	for i := range most { // as by so many processes that died
		batch, err := cons.Fetch(1, jetstream.FetchMaxWait(5*time.Second))
		b.must(err)
		for msg := range batch.Messages() {
			if i < most-1 {
				b.must(msg.Nak())
			}
		}
	}
	for i := range 95 { // the stream is more than half full, so that it is trimmed at once
		b.publish(id, fmt.Sprint("e", i), `"`+strings.Repeat("x", 200<<10)+`"`)
	}
	b.start("r1", func(c *consumers.Config) { c.JetStream = &slowly{b.js, b} })
	stream, err := b.js.Stream(b.ctx, streams.EventStream("analytics"))
	b.must(err)
	n := 0
	b.eventually("m to be purged", func() bool {
		b.publish(id, fmt.Sprint("t", n), `{}`) // an ack moves the floor
		n++
		<-time.After(100 * time.Millisecond)
		_, err := stream.GetMsg(b.ctx, 1)
		return errors.Is(err, jetstream.ErrMsgNotFound)
	})
	if len(b.deadLetters()) != 1 || quiz.byID()["m"] > 0 {
		t.Errorf("%d dead letters, delivered %d times; want one dead letter", len(b.deadLetters()), quiz.byID()["m"])
	}
}
