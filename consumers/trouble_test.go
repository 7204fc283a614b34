package consumers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers"
	"backstop/streams"
)

// fragile makes the breaker open soon and for long enough to be looked at.
func fragile(recovery int) map[string]any {
	return map[string]any{
		"timeout": 2000,
		"retry":   map[string]any{"maxAttempts": 5, "initialDelay": 10, "maxDelay": 20},
		"breaker": map[string]any{"failureThreshold": 3, "recoveryTimeout": recovery, "successThreshold": 2},
	}
}

func (b *bundle) lane(id streams.EndpointID) *jetstream.ConsumerInfo {
	b.Helper()
	cons, err := b.js.Consumer(b.ctx, streams.LaneStream, id.LaneConsumer())
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil
	}
	b.must(err)
	return cons.CachedInfo()
}

func (b *bundle) hasNotice(kind streams.NoticeKind) bool {
	b.Helper()
	s, err := b.js.Stream(b.ctx, streams.NoticeStream)
	b.must(err)
	_, err = s.GetLastMsgForSubject(b.ctx, streams.NoticeSubject(string(kind)))
	return err == nil
}

// TestBreakerPausesTheLane is the life of an endpoint in trouble: its breaker
// opens, its lane is paused for as long, nothing is asked of it and no attempt
// is spent meanwhile, and when it works again everything arrives and the lane
// goes away.
func TestBreakerPausesTheLane(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(500))
	b.apply("quiz", quiz.URL, fragile(1500), "analytics")
	b.start("r1")
	id := endpoint("analytics", "quiz")
	const events = 20
	for i := range events {
		b.publish(id, fmt.Sprint("e", i), `{}`)
	}
	var opened streams.Gate
	b.eventually("the breaker to open", func() bool {
		var there bool
		var err error
		opened, there, err = b.gates.Get(b.ctx, id)
		b.must(err)
		return there
	})
	if opened.State != streams.GateOpen || time.Until(opened.Until) > 1500*time.Millisecond {
		t.Errorf("the bucket says %+v", opened)
	}
	b.eventually("the lane to be paused", func() bool {
		info := b.lane(id)
		return info != nil && info.Paused
	})
	if pause := b.lane(id).Config.PauseUntil; pause == nil || pause.Sub(opened.Until).Abs() > 10*time.Millisecond {
		t.Errorf("the lane is paused until %v, the breaker open until %v", pause, opened.Until)
	}
	b.eventually("everything to be parked", func() bool {
		s, err := b.js.Stream(b.ctx, streams.LaneStream)
		b.must(err)
		return s.CachedInfo().State.Msgs == events
	})
	before := len(quiz.received())
	quiz.setAnswer(always(200))
	b.eventually("the pause to be nearly over", func() bool { return time.Until(opened.Until) < 200*time.Millisecond })
	if now := len(quiz.received()); now != before {
		t.Errorf("%d requests while the breaker was open", now-before)
	}
	b.settled()
	if dead := b.deadLetters(); len(dead) > 0 {
		t.Errorf("%d dead letters: %+v", len(dead), dead[0])
	}
	attempts := map[string]int{}
	for _, r := range quiz.received() {
		name := r.header.Get("X-Request-Id")
		attempts[name]++
		if got := r.header.Get("X-Platform-Attempt"); got != fmt.Sprint(attempts[name]) {
			t.Errorf("request %d for %s says it is attempt %s", attempts[name], name, got)
		}
	}
	if len(attempts) != events {
		t.Errorf("%d of %d events arrived", len(attempts), events)
	}
	b.eventually("the empty lane to be removed", func() bool { return b.lane(id) == nil })
	b.eventually("the notices", func() bool {
		return b.hasNotice(streams.NoticeBreakerOpened) && b.hasNotice(streams.NoticeBreakerClosed)
	})
	if _, there, err := b.gates.Get(b.ctx, id); err != nil || there {
		t.Errorf("the bucket still says that the breaker is open: %v", err)
	}
}

func TestHangingEndpointSlowsNobody(t *testing.T) {
	b := setup(t)
	healthy, hanging := newApp(b, always(200)), newApp(b, hang(b))
	b.apply("healthy", healthy.URL, nil, "analytics")
	b.apply("hanging", hanging.URL, map[string]any{"timeout": 30000}, "analytics")
	b.start("r1", func(c *consumers.Config) { c.Drain = time.Millisecond })
	sent := map[string]time.Time{}
	for i := range 300 {
		b.publish(endpoint("analytics", "hanging"), fmt.Sprint("h", i), `{}`)
		name := fmt.Sprint("ok", i)
		sent[name] = time.Now()
		b.publish(endpoint("analytics", "healthy"), name, `{}`)
	}
	b.eventually("the healthy ones", func() bool { return len(healthy.received()) == 300 })
	var took []time.Duration
	for _, r := range healthy.received() {
		took = append(took, r.at.Sub(sent[r.header.Get("X-Request-Id")]))
	}
	slices.Sort(took)
	if p99 := took[len(took)*99/100]; p99 > 500*time.Millisecond {
		t.Errorf("p99 of the healthy endpoint is %v beside one that hangs", p99)
	}
	if n := len(hanging.received()); n > 8 {
		t.Errorf("the endpoint that hangs holds %d requests, want no more than the first window of 8", n)
	}
	b.eventually("the rest to be parked", func() bool {
		s, err := b.js.Stream(b.ctx, streams.LaneStream)
		b.must(err)
		return s.CachedInfo().State.Msgs == 300-8
	})
}

func TestOperatorsDecision(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	id := endpoint("analytics", "quiz")
	gate := streams.Gate{Capability: id.Capability, App: id.App, State: streams.GateForced, Since: time.Now(), By: "ann"}
	b.must(b.gates.Set(b.ctx, gate))
	b.start("r1")
	b.publish(id, "waits", `{}`)
	b.eventually("the lane to be paused", func() bool {
		info := b.lane(id)
		return info != nil && info.Paused && info.NumPending == 1
	})
	always := func(streams.Gate) bool { return true }
	_, err := b.gates.ClearIf(b.ctx, id, always)
	b.must(err)
	reset := time.Now()
	b.eventually("the delivery", func() bool { return len(quiz.received()) == 1 })
	if took := time.Since(reset); took > 2*time.Second {
		t.Errorf("it took %v from the reset to the delivery", took)
	}

	gate.State = streams.GateDisabled
	b.must(b.gates.Set(b.ctx, gate))
	b.eventually("events to be dead-lettered", func() bool {
		b.publish(id, "", `{}`)
		return len(b.deadLetters()) > 0
	})
	if d := b.deadLetters()[0]; d.Reason != streams.EndpointDisabled {
		t.Errorf("dead letter because of %s, want endpoint_disabled", d.Reason)
	}
	_, err = b.gates.ClearIf(b.ctx, id, always)
	b.must(err)
	before := len(quiz.received())
	b.eventually("events to flow again", func() bool {
		b.publish(id, "", `{}`)
		return len(quiz.received()) > before
	})
}

// deafBreakers is JetStream with a breakers bucket that takes no writes while
// deaf is set, as while it has no leader.
type deafBreakers struct {
	jetstream.JetStream
	deaf             atomic.Bool
	creates, deletes atomic.Int64 // refused
}

func (d *deafBreakers) into(c *consumers.Config) { d.JetStream, c.JetStream = c.JetStream, d }

func (d *deafBreakers) KeyValue(ctx context.Context, name string) (jetstream.KeyValue, error) {
	kv, err := d.JetStream.KeyValue(ctx, name)
	if name == streams.BreakersBucket {
		kv = deafBucket{kv, d}
	}
	return kv, err
}

type deafBucket struct {
	jetstream.KeyValue
	d *deafBreakers
}

func (b deafBucket) refuse(count *atomic.Int64) error {
	if !b.d.deaf.Load() {
		return nil
	}
	count.Add(1)
	return context.DeadlineExceeded
}

func (b deafBucket) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	if err := b.refuse(&b.d.creates); err != nil {
		return 0, err
	}
	return b.KeyValue.Create(ctx, key, value, opts...)
}

func (b deafBucket) Delete(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	if err := b.refuse(&b.d.deletes); err != nil {
		return err
	}
	return b.KeyValue.Delete(ctx, key, opts...)
}

// gate returns the state that the bucket has of an endpoint, "" for none.
func (b *bundle) gate(id streams.EndpointID) streams.GateState {
	b.Helper()
	g, _, err := b.gates.Get(b.ctx, id)
	b.must(err)
	return g.State
}

// TestGatesAreRecordedWhenTheBucketIsBack: what a breaker did, and what an app
// said (410), while the bucket had no leader, is there once it has one.
func TestGatesAreRecordedWhenTheBucketIsBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz, gone := newApp(b, always(500)), newApp(b, always(410))
	b.apply("quiz", quiz.URL, fragile(1000), "analytics")
	b.apply("gone", gone.URL, quick, "analytics")
	bucket := &deafBreakers{}
	b.start("r1", bucket.into)
	id, goneID := endpoint("analytics", "quiz"), endpoint("analytics", "gone")
	for i := range 5 {
		b.publish(id, fmt.Sprint("e", i), `{}`)
	}
	b.eventually("the breaker to open", func() bool { return b.gate(id) == streams.GateOpen })
	bucket.deaf.Store(true)
	b.publish(goneID, "", `{}`)
	b.eventually("the 410", func() bool { return bucket.creates.Load() > 0 })
	quiz.setAnswer(always(200))
	b.eventually("the breaker to close", func() bool { return len(quiz.byID()) == 5 && b.lane(id) == nil && bucket.deletes.Load() > 0 })
	bucket.deaf.Store(false)
	b.eventually("both gates to be recorded", func() bool { return b.gate(id) == "" && b.gate(goneID) == streams.GateDisabled })
}

// TestEnabledWhereNothingIsRecorded: an app answered 410 to a replica that can't
// record it, and an operator enables it: the bucket has nothing to remove.
func TestEnabledWhereNothingIsRecorded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(410))
	b.apply("quiz", quiz.URL, quick, "analytics")
	id := endpoint("analytics", "quiz")
	bucket := &deafBreakers{}
	b.start("r1", bucket.into)
	bucket.deaf.Store(true)
	b.publish(id, "e1", `{}`)
	b.awaitDeadLetters(1)
	quiz.setAnswer(always(200))
	b.must(b.gates.Repeat(b.ctx, id))
	b.eventually("events to be delivered", func() bool {
		b.publish(id, "", `{}`)
		return len(quiz.received()) > 1
	})
	bucket.deaf.Store(false)
	refused := bucket.creates.Load()
	b.settled()
	if g := b.gate(id); g != "" || bucket.creates.Load() != refused {
		t.Errorf("the endpoint is %q again", g)
	}
}

// TestPauseOfADeadProcessEnds: a durable that was paused for an operator stays
// paused when the process dies; whoever comes next, after the operator's
// reset, has to end it.
func TestPauseOfADeadProcessEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	id := endpoint("analytics", "quiz")
	_, err := b.js.CreateConsumer(b.ctx, streams.LaneStream, id.LaneConfig(time.Now().Add(1000*time.Hour)))
	b.must(err)
	_, err = b.js.PublishMsg(b.ctx, streams.Event{ID: "left", Origin: "x-1", EndpointID: id, Payload: []byte(`{}`), PublishedAt: time.Now()}.LaneMsg())
	b.must(err)
	b.start("r1")
	b.eventually("the delivery", func() bool { return len(quiz.received()) == 1 })
	b.settled()
}

// TestPauseOfAReplicaThatIsGoneEnds: a replica pauses a lane, for a reason of
// its own, which another one works off already, and is killed.
func TestPauseOfAReplicaThatIsGoneEnds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(500))
	hook := map[string]any{"retry": map[string]any{"maxAttempts": 20, "initialDelay": 200, "maxDelay": 200}, "breaker": map[string]any{"failureThreshold": 1000}}
	b.apply("quiz", quiz.URL, hook, "analytics")
	b.start("r1")
	id := endpoint("analytics", "quiz")
	b.publishable("analytics")
	b.publish(id, "e1", `{}`)
	b.eventually("the lane to be worked off", func() bool { return b.lane(id) != nil && b.lane(id).Delivered.Consumer > 1 })
	_, err := b.js.PauseConsumer(b.ctx, streams.LaneStream, id.LaneConsumer(), time.Now().Add(100*time.Hour))
	b.must(err)
	quiz.setAnswer(always(200))
	b.settled()
	if dead := b.deadLetters(); len(dead) > 0 {
		t.Errorf("dead letters: %+v", dead)
	}
}

// What an app asked one replica for holds at the others as well, once they have
// seen it: none ends the pause.
func TestPauseHoldsAtAllReplicas(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, func(*http.Request) (int, http.Header, string) { return 429, http.Header{"Retry-After": {"60"}}, "" })
	b.apply("quiz", quiz.URL, quick, "analytics")
	b.start("r1")
	b.start("r2")
	id := endpoint("analytics", "quiz")
	b.publishable("analytics")
	b.publish(id, "e1", `{}`)
	b.eventually("the lane to be paused", func() bool { i := b.lane(id); return i != nil && i.Paused })
	b.throughout(5*time.Second, func() { // the other one has a runner for it within 2 s
		if i := b.lane(id); i == nil || !i.Paused {
			t.Fatalf("somebody ended the pause: %+v", i)
		}
	})
	b.publish(id, "e2", `{}`)
	b.eventually("the other event to be parked", func() bool { i := b.lane(id); return i != nil && i.NumPending+uint64(i.NumAckPending) == 2 })
	if n := len(quiz.received()); n != 1 {
		t.Errorf("the app got %d requests, want the one that it answered", n)
	}
}

// TestBrokerRestart: the broker goes away in the middle of traffic, and
// everything is settled all the same.
func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var n atomic.Int64
	flaky := newApp(b, func(*http.Request) (int, http.Header, string) {
		if n.Add(1)%3 == 0 {
			return 500, nil, ""
		}
		return 200, nil, ""
	})
	b.apply("flaky", flaky.URL, map[string]any{"concurrency": 1, "retry": map[string]any{"maxAttempts": 10, "initialDelay": 10, "maxDelay": 50}}, "analytics")
	b.start("r1")
	const events = 200
	for i := range events {
		if i == events/2 {
			b.srv.Restart()
		}
		b.eventually("the publish", func() bool {
			_, err := b.publisher.Publish(b.ctx, endpoint("analytics", "flaky"), fmt.Sprint("e", i), []byte(`{}`))
			return err == nil
		})
	}
	b.settled()
	delivered := flaky.byID()
	for _, d := range b.deadLetters() {
		delivered[d.ID]++
	}
	if len(delivered) != events {
		t.Errorf("%d of %d events are accounted for", len(delivered), events)
	}
}

// TestBurstToAFastAppStaysInItsLane: a backlog for an app that is fast and
// alone in its capability is not stored a second time.
func TestBurstToAFastAppStaysInItsLane(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, nil, "analytics")
	b.must(b.topology.EnsureCapability(b.ctx, "analytics"))
	const events = 5000
	for range events / 500 {
		batch := make([]*nats.Msg, 500)
		for i := range batch {
			msg, err := streams.EventMsg(endpoint("analytics", "quiz"), "", []byte(`{}`))
			b.must(err)
			batch[i] = msg
		}
		b.must(streams.PublishBatch(b.ctx, b.nc, batch))
	}
	b.start("r1")
	b.eventually("the deliveries", func() bool { return len(quiz.received()) >= events })
	b.settled()
	if got := len(quiz.byID()); got != events || len(quiz.received()) != events {
		t.Errorf("%d events arrived in %d requests, want each of %d once", got, len(quiz.received()), events)
	}
	s, err := b.js.Stream(b.ctx, streams.LaneStream)
	b.must(err)
	parked := s.CachedInfo().State.LastSeq
	all := quiz.received()
	// An app that takes fewer than a mailbox's worth a second is not fast, and
	// on a machine that is busy with something else no app is.
	if took := all[len(all)-1].at.Sub(all[0].at); parked > 0 && took > 2*time.Second {
		t.Skipf("this machine is too slow at the moment: %d deliveries took %v", len(all), took)
	}
	if parked > 0 {
		t.Errorf("%d events were parked", parked)
	}
}
