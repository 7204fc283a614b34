package consumers_test

import (
	"testing"
	"time"

	"backstop/streams"
)

// TestLeftoverIsHandedOutAgain: an event that its durable takes for settled,
// and that is still in the lane of a half-open endpoint, doesn't stay there.
func TestLeftoverIsHandedOutAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, fragile(100), "analytics")
	id := endpoint("analytics", "quiz")
	b.must(b.gates.Set(b.ctx, streams.Gate{Capability: id.Capability, App: id.App, State: streams.GateOpen, Since: time.Now(), Until: time.Now()}))
	event := streams.Event{ID: "left", Origin: "left", EndpointID: id, Payload: []byte(`{}`), PublishedAt: time.Now()}
	_, err := b.js.PublishMsg(b.ctx, event.LaneMsg())
	b.must(err)
	_, err = b.js.CreateConsumer(b.ctx, streams.LaneStream, id.LaneConfig(time.Time{}))
	b.must(err)
	_, err = b.js.ResetConsumerToSequence(b.ctx, streams.LaneStream, id.LaneConsumer(), 2)
	b.must(err)
	if info := b.lane(id); info.AckFloor.Stream != 1 || info.NumPending != 0 {
		t.Fatalf("the lane is %+v; the test needs one that takes its event for settled", info)
	}
	b.start("r1")
	b.eventually("the event to be delivered", func() bool { return len(quiz.received()) > 0 })
	b.eventually("the lane to be empty", func() bool {
		s, err := b.js.Stream(b.ctx, streams.LaneStream)
		b.must(err)
		return s.CachedInfo().State.Msgs == 0
	})
}
