package streams_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
)

var mail = streams.EndpointID{Capability: "email", App: "mail"}

func outgoing(n int) []streams.Outgoing {
	events := make([]streams.Outgoing, n)
	for i := range events {
		events[i] = streams.Outgoing{To: quiz, ID: fmt.Sprintf("event-%d", i), Payload: []byte(`{}`)}
	}
	return events
}

// stored fails unless the receipt leads to the event that it is for.
func (b *bundle) stored(e streams.Outgoing, p streams.Published) {
	b.Helper()
	if p.Err != nil {
		b.Fatalf("%s: %v", e.ID, p.Err)
	}
	stream, err := b.js.Stream(b.ctx, p.Receipt.Stream)
	b.must(err)
	msg, err := stream.GetMsg(b.ctx, p.Receipt.Sequence)
	b.must(err)
	if id := msg.Header.Get("Nats-Msg-Id"); id != p.Receipt.ID || e.ID != "" && id != e.ID || !bytes.Equal(msg.Data, e.Payload) || msg.Subject != e.To.Subject(streams.Events) {
		b.Fatalf("the receipt %+v of %s leads to %s, on %s", p.Receipt, e.ID, id, msg.Subject)
	}
	if got := msg.Header.Get("traceparent"); got != e.TraceParent {
		b.Fatalf("%s: traceparent %q, want %q", e.ID, got, e.TraceParent)
	}
}

func TestPublishAllStoresMany(t *testing.T) {
	b := setup(t)
	for _, n := range []int{0, 1, 19, 20, 2500} {
		before := b.messages("EVENTS_analytics")
		events := outgoing(n)
		for i := range events {
			events[i].ID = "" // made
			events[i].Payload = fmt.Appendf(nil, `%d`, i)
		}
		results, err := streams.NewPublisher(b.js).PublishAll(b.ctx, events)
		b.must(err)
		if got := b.messages("EVENTS_analytics") - before; int(got) != n || len(results) != n {
			t.Errorf("%d events: %d stored, %d results", n, got, len(results))
		}
		for i := 0; i < n; i += 1 + n/50 {
			b.stored(events[i], results[i])
		}
	}
}

func TestPublishAllTellsEachEventItsFate(t *testing.T) {
	b := setup(t)
	b.must(b.topology.EnsureCapability(b.ctx, mail.Capability))
	p := streams.NewPublisher(b.js)
	_, err := p.Publish(b.ctx, quiz, "event-7", []byte(`{}`))
	b.must(err)

	events := outgoing(60)
	events[3].ID = "event-2" // twice in the batch; event-7 was stored before
	events[5].TraceParent = "00-abc"
	events[10].Payload = bytes.Repeat([]byte("1"), streams.MaxPayload+1)
	events[11].ID = "not an id"
	events[12].To.Capability = "nobody"
	events[13].To.App = "*"
	for i := 30; i < 60; i++ {
		events[i].To = mail
	}
	results, err := p.PublishAll(b.ctx, events)
	if err == nil || !strings.Contains(err.Error(), "4 of 60 events were not acknowledged") {
		t.Errorf("the error is %v, want 4 of 60", err)
	}
	refused := map[int]func(error) bool{
		10: func(err error) bool { return errors.Is(err, streams.ErrTooLarge) },
		11: func(err error) bool { return strings.Contains(err.Error(), "letters, digits") },
		12: func(err error) bool { return errors.Is(err, streams.ErrNoStream) },
		13: func(err error) bool { return strings.Contains(err.Error(), "app") },
	}
	for i, e := range events {
		if want, bad := refused[i]; bad {
			if results[i].Err == nil || !want(results[i].Err) {
				t.Errorf("event %d: %v", i, results[i].Err)
			}
			continue
		}
		b.stored(e, results[i])
		// Of one id twice in a batch, either may be the first.
		if dup := results[i].Receipt.Duplicate; i != 2 && i != 3 && dup != (i == 7) {
			t.Errorf("event %d: duplicate is %v", i, dup)
		}
	}
	if results[2].Receipt.Duplicate == results[3].Receipt.Duplicate || results[2].Receipt.Sequence != results[3].Receipt.Sequence {
		t.Errorf("one id twice: receipts %+v and %+v", results[2].Receipt, results[3].Receipt)
	}
	if got := b.messages("EVENTS_analytics"); got != 25 { // of 30, four were refused and one was there twice
		t.Errorf("EVENTS_analytics holds %d events, want 25", got)
	}
	if got := b.messages("EVENTS_email"); got != 30 {
		t.Errorf("EVENTS_email holds %d events, want 30", got)
	}
	// All once more, as after an answer that got lost: nothing is added.
	again, _ := p.PublishAll(b.ctx, events)
	for i := range events {
		if _, bad := refused[i]; !bad && !again[i].Receipt.Duplicate {
			t.Errorf("event %d was stored a second time: %+v", i, again[i])
		}
	}
}

// A batch of large events is cut by its bytes, which the broker keeps in memory.
func TestPublishAllOfLargeEvents(t *testing.T) {
	b := setup(t)
	events := outgoing(50)
	for i := range events {
		events[i].Payload = bytes.Repeat([]byte("1"), streams.MaxPayload)
	}
	// The stream of a store of 1 GiB takes 8 MiB: some are refused, and told so.
	results, err := streams.NewPublisher(b.js).PublishAll(b.ctx, events)
	if !errors.Is(err, streams.ErrStreamFull) {
		t.Errorf("more than the stream takes: %v, want ErrStreamFull", err)
	}
	acknowledged := 0
	for i, r := range results {
		if r.Err == nil {
			if acknowledged++; acknowledged%8 == 0 {
				b.stored(events[i], r)
			}
		} else if !errors.Is(r.Err, streams.ErrStreamFull) || r.Receipt.ID != events[i].ID {
			t.Errorf("event %d: %+v", i, r)
		}
	}
	if got := b.messages("EVENTS_analytics"); int(got) != acknowledged || acknowledged < 10 {
		t.Errorf("%d events were acknowledged, %d are stored", acknowledged, got)
	}
}

// The connection is lost between a batch and its acknowledgement. Whatever
// PublishAll says of an event holds, and publishing all again stores each once.
func TestPublishAllOverALostConnection(t *testing.T) {
	b := setup(t)
	events := outgoing(2500)
	p := streams.NewPublisher(b.js)
	// The first batch that is stored stops the server, before or after its word is out.
	stream, err := b.js.Stream(b.ctx, "EVENTS_analytics")
	b.must(err)
	ctx, cancel := context.WithTimeout(b.ctx, 3*time.Second)
	defer cancel()
	var watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			if info, err := stream.Info(ctx); err == nil && info.State.Msgs > 0 {
				b.srv.Stop()
				return
			}
		}
	})
	results, _ := p.PublishAll(ctx, events)
	watch.Wait()
	b.srv.Restart()
	for i, r := range results {
		if r.Err == nil {
			continue
		}
		if !errors.Is(r.Err, streams.ErrUnavailable) || r.Receipt.ID != events[i].ID {
			t.Fatalf("event %d: %+v", i, r)
		}
	}
	again, err := p.PublishAll(b.ctx, events)
	b.must(err)
	for i := 0; i < len(events); i += 50 {
		b.stored(events[i], again[i])
		if results[i].Err == nil && again[i].Receipt.Sequence != results[i].Receipt.Sequence {
			t.Errorf("event %d was acknowledged as %+v and is %+v", i, results[i].Receipt, again[i].Receipt)
		}
	}
	if got := b.messages("EVENTS_analytics"); got != 2500 {
		t.Errorf("EVENTS_analytics holds %d events, want 2500", got)
	}
}

// Stored one by one after a batch that was refused, a message must not claim
// to belong to one.
func TestStoreEachLeavesNoBatchHeaders(t *testing.T) {
	b := setup(t)
	msgs := make([]*nats.Msg, 25)
	for i := range msgs {
		msg, err := streams.EventMsg(quiz, fmt.Sprintf("m-%d", i/2), []byte(`{}`), streams.WithTrace("00-x", "k=v"))
		b.must(err)
		msgs[i] = msg
	}
	streams.StoreEach(b.ctx, b.js, msgs, func(i int, _ *jetstream.PubAck, err error) {
		if err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	})
	for i, msg := range msgs {
		if len(msg.Header) != 3 {
			t.Errorf("message %d has the headers %v", i, msg.Header)
		}
	}
	if got := b.messages("EVENTS_analytics"); got != 13 {
		t.Errorf("%d messages with 13 ids are stored", got)
	}
}

func TestPublishPassesTheTraceOn(t *testing.T) {
	b := setup(t, natstest.SyncAlways())
	p := streams.NewPublisher(b.js)
	for _, tc := range []struct{ parent, state, wantParent, wantState, why string }{
		{"00-abc", "k=v", "00-abc", "k=v", "both"},
		{"00-abc", "", "00-abc", "", "a parent without a state"},
		{"", "k=v", "", "", "a state without a parent means nothing"},
	} {
		_, err := p.Publish(b.ctx, quiz, "", []byte(`{}`), streams.WithTrace(tc.parent, tc.state))
		b.must(err)
		event, err := streams.Decode(b.next("EVENTS_analytics", "webhooks"))
		b.must(err)
		if event.TraceParent != tc.wantParent || event.TraceState != tc.wantState {
			t.Errorf("%s: %q, %q", tc.why, event.TraceParent, event.TraceState)
		}
	}
}
