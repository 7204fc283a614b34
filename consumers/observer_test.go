package consumers_test

import (
	"fmt"
	"strings"
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

// TestInventedNamesAreNoticedTogether: one notice a minute, whatever names a
// publisher comes up with, and not one for each of them.
func TestInventedNamesAreNoticedTogether(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	r1 := b.start("r1")
	b.publishable("analytics")
	const names = 20
	for i := range names {
		b.publish(endpoint("analytics", fmt.Sprint("invented", i)), "", `{}`)
	}
	b.awaitDeadLetters(names)
	b.settled()
	b.must(r1.stop()) // sends what was counted
	s, err := b.js.Stream(b.ctx, streams.NoticeStream)
	b.must(err)
	if n := s.CachedInfo().State.Msgs; n != 2 {
		t.Errorf("%d notices, want one for the first and one for the others", n)
	}
	last, err := s.GetLastMsgForSubject(b.ctx, streams.NoticeSubject(string(streams.NoticeDeadLettered)))
	b.must(err)
	if !strings.Contains(string(last.Data), `"count":19`) || !strings.Contains(string(last.Data), "invented") {
		t.Errorf("the last one is %s", last.Data)
	}
}
