package consumers_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"backstop/consumers"
	"backstop/streams"
)

// awaitSiblings waits until every replica watches over the calls of n others.
func (b *bundle) awaitSiblings(replicas, n int) {
	b.Helper()
	subject, err := micro.ControlSubject(micro.StatsVerb, "backstop-calls", "")
	b.must(err)
	inbox := b.nc.NewInbox()
	sub, err := b.nc.SubscribeSync(inbox)
	b.must(err)
	defer func() { _ = sub.Unsubscribe() }()
	b.eventually("replicas to watch over each other's calls", func() bool {
		b.must(b.nc.PublishRequest(subject, inbox, nil))
		watching := 0
		for range replicas {
			msg, err := sub.NextMsg(time.Second)
			if errors.Is(err, nats.ErrTimeout) {
				return false
			}
			b.must(err)
			var stats struct {
				Endpoints []struct {
					Data struct {
						Siblings int `json:"siblings"`
					} `json:"data"`
				} `json:"endpoints"`
			}
			b.must(json.Unmarshal(msg.Data, &stats))
			for _, e := range stats.Endpoints {
				if e.Data.Siblings == n {
					watching++
				}
			}
		}
		return watching == replicas
	})
}

// losable gives a replica a connection for its calls that the test can cut, as
// a SIGKILL does: nothing is said any more, and nothing is heard.
func (b *bundle) losable(nc **nats.Conn) func(*consumers.Config) {
	*nc = b.srv.Conn()
	return func(c *consumers.Config) { c.Calls = *nc }
}

type timedReply struct {
	streams.Reply
	took time.Duration
}

// askAll makes n calls at once and returns their replies in time, by id.
func (b *bundle) askAll(n int, subject string, patience time.Duration, meanwhile func()) map[string]timedReply {
	b.Helper()
	var mu sync.Mutex
	got := make(map[string]timedReply)
	var asking sync.WaitGroup
	for i := range n {
		asking.Go(func() {
			msg := nats.NewMsg(subject)
			msg.Data = []byte(`{"n":` + strconv.Itoa(i) + `}`)
			msg.Header.Set("Nats-Msg-Id", "call-"+strconv.Itoa(i))
			msg.Header.Set("X-Timeout-Ms", strconv.FormatInt(patience.Milliseconds(), 10))
			began := time.Now()
			answer, err := b.nc.RequestMsg(msg, patience+10*time.Second) // on a busy machine; in time is another test
			if err != nil {
				b.Errorf("call %d: %v after %v", i, err, time.Since(began))
				return
			}
			r := timedReply{took: time.Since(began)}
			if err := json.Unmarshal(answer.Data, &r.Reply); err != nil {
				b.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			got[r.RequestID] = r
		})
	}
	meanwhile()
	asking.Wait()
	return got
}

// TestCallsOfALostReplicaAreAnswered: a replica that dies with calls in its
// hands leaves nobody without an answer. The app, which may have been asked, is
// not asked again, and a fallback answers under the same id.
func TestCallsOfALostReplicaAreAnswered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, hang(b))
	b.apply("quiz", quiz.URL, takesCalls(map[string]any{
		"timeout": 4000, "concurrency": 100,
		"fallback": []any{map[string]any{"strategy": "queue"}},
	}), "score")
	var lost *nats.Conn
	b.start("r1", b.losable(&lost), b.withFallbacks)
	b.start("r2", b.withFallbacks)
	b.awaitSiblings(2, 1)
	const n = 40
	got := b.askAll(n, "calls.score.quiz", 4*time.Second, func() {
		b.eventually("all calls to be with the app", func() bool { return len(quiz.received()) == n })
		lost.Close()
	})
	early := 0
	for i := range n {
		r, ok := got["call-"+strconv.Itoa(i)]
		switch {
		case !ok:
			t.Errorf("call %d got no answer", i)
		case r.Reason == "connection": // its replica is lost
			early++
			if r.Source != streams.SourceQueued {
				t.Errorf("call %d got %+v, want that it is queued", i, r)
			}
		case r.Reason != "timeout":
			t.Errorf("call %d has the reason %s", i, r.Reason)
		}
	}
	if early == 0 || early == n {
		t.Errorf("%d of %d calls were with the replica that was lost: the test shows nothing", early, n)
	}
}

// TestSlowCallsAreAnsweredOnce: with every replica well, nobody answers in
// another's place, however long an app takes.
func TestSlowCallsAreAnsweredOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, func(r *http.Request) (int, http.Header, string) {
		select {
		case <-r.Context().Done():
		case <-time.After(1500 * time.Millisecond): // longer than a replica's silence
		}
		return 200, nil, `{"success":true}`
	})
	b.apply("quiz", quiz.URL, takesCalls(map[string]any{"timeout": 10000, "concurrency": 100}), "score")
	o := &observed{}
	counting := func(c *consumers.Config) { c.Observer = o }
	r1, r2 := b.start("r1", counting), b.start("r2", counting)
	b.awaitSiblings(2, 1)
	const n = 20
	got := b.askAll(n, "calls.score.quiz", 10*time.Second, func() {})
	for id, r := range got {
		if r.Source != streams.SourceApp {
			t.Errorf("%s was answered by %s (%s)", id, r.Source, r.Reason)
		}
	}
	b.must(errors.Join(r1.stop(), r2.stop()))
	if len(o.calls) != n || len(got) != n {
		t.Errorf("%d calls got %d answers, of which the callers saw %d", n, len(o.calls), len(got))
	}
}
