package consumers_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/consumers"
	"backstop/streams"
)

// observed keeps which endpoints an Observer is told of.
type observed struct {
	mu             sync.Mutex
	letters, calls []streams.EndpointID
}

func (o *observed) DeadLetter(id streams.EndpointID, _ streams.DeadLetterReason) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.letters = append(o.letters, id)
}

func (o *observed) Call(id streams.EndpointID, _ streams.Source, _ string, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, id)
}

// TestInventedNamesAreNotCounted: what a publisher or a caller comes up with
// reaches no counter, for whatever reason it is refused; a name that is not
// UTF-8 would end the process there.
func TestInventedNamesAreNotCounted(t *testing.T) {
	b := setup(t)
	quiz := newApp(b, always(400))
	b.apply("quiz", quiz.URL, quick, "analytics")
	b.apply("score", quiz.URL, takesCalls(), "score")
	o := &observed{}
	b.start("r1", func(c *consumers.Config) { c.Observer = o })
	b.publishable("analytics")
	for _, subject := range []string{
		"events.analytics.\xff\xfe", "events.analytics.no_such", "events.analytics.quiz",
	} {
		for _, payload := range []string{`{`, `{}`} {
			_, err := b.js.PublishMsg(b.ctx, &nats.Msg{Subject: subject, Data: []byte(payload)})
			b.must(err)
		}
	}
	b.awaitDeadLetters(6)
	for _, subject := range []string{"calls.\xff\xfe.\xff", "calls.score.\xff", "calls.nothing.quiz", "calls.score.score"} {
		for _, payload := range []string{`{`, `{}`} {
			b.ask(subject, payload)
		}
	}
	b.eventually("everything to be counted", func() bool { // after it is stored or answered
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.letters) >= 6 && len(o.calls) >= 8
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	count := func(ids []streams.EndpointID) map[streams.EndpointID]int {
		n := map[streams.EndpointID]int{}
		for _, id := range ids {
			n[id]++
		}
		return n
	}
	if got := count(o.letters); len(o.letters) != 6 || got[endpoint("analytics", "quiz")] != 2 || got[endpoint("analytics", "")] != 4 {
		t.Errorf("dead letters were counted for %+v", got)
	}
	if got := count(o.calls); len(o.calls) != 8 || got[endpoint("score", "score")] != 2 || got[endpoint("", "")] != 6 {
		t.Errorf("calls were counted for %+v", got)
	}
}
