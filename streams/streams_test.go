package streams_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
)

var quiz = streams.EndpointID{Capability: "analytics", App: "quiz"}

// bundle is a broker with the whole topology and one capability.
type bundle struct {
	*testing.T
	ctx      context.Context
	srv      *natstest.Server
	nc       *nats.Conn
	js       jetstream.JetStream
	topology *streams.Topology
}

func setup(t *testing.T, opts ...natstest.Option) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	srv := natstest.Start(t, opts...)
	nc := srv.Conn()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle{T: t, ctx: ctx, srv: srv, nc: nc, js: js, topology: streams.NewTopology(js, streams.Settings{StoreBytes: 1 << 30, AllowedNetworks: "127.0.0.0/8"})}
	b.must(b.topology.Ensure(ctx))
	b.must(b.topology.EnsureCapability(ctx, quiz.Capability))
	return b
}

func (b *bundle) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// next returns the next message of the durable.
func (b *bundle) next(stream, consumer string) jetstream.Msg {
	b.Helper()
	cons, err := b.js.Consumer(b.ctx, stream, consumer)
	b.must(err)
	msg, err := cons.Next(jetstream.FetchMaxWait(5 * time.Second))
	b.must(err)
	return msg
}

func (b *bundle) messages(stream string) uint64 {
	b.Helper()
	s, err := b.js.Stream(b.ctx, stream)
	b.must(err)
	return s.CachedInfo().State.Msgs
}

func TestEnsureIsIdempotentAndKeepsData(t *testing.T) {
	b := setup(t)
	_, err := streams.NewPublisher(b.js).Publish(b.ctx, quiz, "one", []byte(`{}`))
	b.must(err)
	b.must(b.topology.Ensure(b.ctx))
	b.must(b.topology.EnsureCapability(b.ctx, quiz.Capability))
	if got := b.messages("EVENTS_analytics"); got != 1 {
		t.Errorf("EVENTS_analytics holds %d messages after the second Ensure, want 1", got)
	}
	for _, name := range []string{"LANES", "DLQ", "RESULTS", "NOTICES", "ATTEMPTS", "ADVISORIES", "EVENTS_analytics"} {
		s, err := b.js.Stream(b.ctx, name)
		b.must(err)
		if s.CachedInfo().Config.Description == "" {
			t.Errorf("stream %s says nothing about itself", name)
		}
	}
	for _, name := range []string{"apps", "breakers", "cache", "pending", "secrets", "health", "leases"} {
		kv, err := b.js.KeyValue(b.ctx, name)
		b.must(err)
		status, err := kv.Status(b.ctx)
		b.must(err)
		if name == "apps" && status.Metadata()[streams.AllowedNetworksKey] != "127.0.0.0/8" {
			t.Errorf("the apps bucket doesn't tell clients which networks are allowed: %v", status.Metadata())
		}
	}
}

// TestStreamOfAnEarlierVersionIsKept: how a stream reaches the disk can't be
// changed, and what can't be changed must not stop the start.
func TestStreamOfAnEarlierVersionIsKept(t *testing.T) {
	b := setup(t)
	b.must(b.js.DeleteStream(b.ctx, streams.AttemptStream))
	_, err := b.js.CreateStream(b.ctx, jetstream.StreamConfig{
		Name: streams.AttemptStream, Subjects: []string{"attempts.*.*"}, AllowAtomicPublish: true,
	})
	b.must(err)
	b.must(b.topology.Ensure(b.ctx))
	s, err := b.js.Stream(b.ctx, streams.AttemptStream)
	b.must(err)
	if got := s.CachedInfo().Config; got.PersistMode != jetstream.DefaultPersistMode || got.Description == "" {
		t.Errorf("the stream is now %+v", got)
	}
}

func TestPublishRun(t *testing.T) {
	b := setup(t)
	run := func(subject string, n int) []*nats.Msg {
		msgs := make([]*nats.Msg, n)
		for i := range msgs {
			msgs[i] = nats.NewMsg(subject)
		}
		return msgs
	}
	for _, n := range []int{0, 1, 500} {
		b.must(streams.PublishRun(b.ctx, b.nc, run("attempts.analytics.quiz", n)))
	}
	s, err := b.js.Stream(b.ctx, streams.AttemptStream)
	b.must(err)
	if got := s.CachedInfo().State.Msgs; got != 501 {
		t.Errorf("%d messages are stored, want 501", got)
	}
	if err := streams.PublishRun(b.ctx, b.nc, run("nowhere.at.all", 2)); err == nil {
		t.Error("a run that no stream takes was no error")
	}
}

func TestSmallStoreHalvesReservations(t *testing.T) {
	b := setup(t, natstest.StoreMax(1<<30-5<<20)) // so that the shares don't fit exactly
	full := int64(0)
	for i := range 120 { // 8 MiB each, which is more than 1 GiB has room for
		name := fmt.Sprintf("capability%d", i)
		b.must(b.topology.EnsureCapability(b.ctx, name))
		s, err := b.js.Stream(b.ctx, streams.EventStream(name))
		b.must(err)
		switch size := s.CachedInfo().Config.MaxBytes; {
		case full == 0:
			full = size
		case size < full:
			return
		}
	}
	t.Errorf("120 capabilities got %d bytes each of a store of 1 GiB", full)
}

func TestPublishErrorsSayWhatToDo(t *testing.T) {
	b := setup(t)
	p := streams.NewPublisher(b.js)
	for _, tc := range []struct {
		to      streams.EndpointID
		id      string
		payload []byte
		want    error
		text    string
		why     string
	}{
		{to: streams.EndpointID{Capability: "nobody", App: "quiz"}, want: streams.ErrNoStream, text: "apply a manifest", why: "nobody declared it"},
		{to: quiz, payload: bytes.Repeat([]byte("x"), 1<<20), want: streams.ErrTooLarge, text: "256 KiB", why: "larger than the stream takes"},
		{to: quiz, payload: bytes.Repeat([]byte("x"), 2<<20), want: streams.ErrTooLarge, text: "256 KiB", why: "larger than the server takes"},
		{to: quiz, id: "not an id", text: "letters, digits", why: "an id outside the alphabet"},
		{to: streams.EndpointID{Capability: "a.b", App: "quiz"}, text: "capability", why: "a capability that is no token"},
		{to: streams.EndpointID{Capability: "analytics", App: "*"}, text: "app", why: "an app that is no token"},
	} {
		_, err := p.Publish(b.ctx, tc.to, tc.id, tc.payload)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(fmt.Sprint(err), tc.text) {
			t.Errorf("%s: got %v, want %v with %q", tc.why, err, tc.want, tc.text)
		}
	}
}

func TestPublishIsDeduplicated(t *testing.T) {
	b := setup(t)
	p := streams.NewPublisher(b.js)
	first, err := p.Publish(b.ctx, quiz, "same", []byte(`1`))
	b.must(err)
	again, err := p.Publish(b.ctx, quiz, "same", []byte(`1`))
	b.must(err)
	if first.Duplicate || !again.Duplicate || again.Sequence != first.Sequence {
		t.Errorf("receipts %+v and %+v: want the second to be a duplicate of the first", first, again)
	}
}

func TestFullStreamRefusesPublishers(t *testing.T) {
	b := setup(t)
	s, err := b.js.Stream(b.ctx, "EVENTS_analytics")
	b.must(err)
	cfg := s.CachedInfo().Config
	cfg.MaxBytes = 4 << 10
	_, err = b.js.UpdateStream(b.ctx, cfg)
	b.must(err)
	p := streams.NewPublisher(b.js)
	var stored int
	for range 10 {
		if _, err = p.Publish(b.ctx, quiz, "", bytes.Repeat([]byte("1"), 1000)); err != nil {
			break
		}
		stored++
	}
	if !errors.Is(err, streams.ErrStreamFull) {
		t.Fatalf("publishing to a full stream: %v, want ErrStreamFull", err)
	}
	if got := b.messages("EVENTS_analytics"); int(got) != stored {
		t.Errorf("%d events were acknowledged, %d are stored", stored, got)
	}
}

func TestRetiredCapabilityRefusesPublishersAndKeepsEvents(t *testing.T) {
	b := setup(t)
	p := streams.NewPublisher(b.js)
	_, err := p.Publish(b.ctx, quiz, "kept", []byte(`1`))
	b.must(err)
	b.must(b.topology.RetireCapability(b.ctx, quiz.Capability))
	if _, err := p.Publish(b.ctx, quiz, "", []byte(`1`)); !errors.Is(err, streams.ErrNoStream) {
		t.Errorf("publishing to a retired capability: %v, want ErrNoStream", err)
	}
	if event, err := streams.Decode(b.next("EVENTS_analytics", "webhooks")); err != nil || event.ID != "kept" {
		t.Errorf("the event from before is %+v, %v", event, err)
	}
	b.must(b.topology.EnsureCapability(b.ctx, quiz.Capability))
	_, err = p.Publish(b.ctx, quiz, "", []byte(`1`))
	b.must(err)
	b.must(b.topology.RetireCapability(b.ctx, "neverSeen"))
}

func TestDecodeIDs(t *testing.T) {
	b := setup(t)
	publish := func(header, value string) streams.Event {
		t.Helper()
		msg := nats.NewMsg(quiz.Subject(streams.Events))
		msg.Data = []byte(`{}`)
		if header != "" {
			msg.Header.Set(header, value)
		}
		// What only Backstop may say is not believed on a service's subject.
		msg.Header.Set(streams.HeaderAttempts, "7")
		msg.Header.Set(streams.HeaderPublishedAt, "2001-01-01T00:00:00Z")
		_, err := b.js.PublishMsg(b.ctx, msg)
		b.must(err)
		event, err := streams.Decode(b.next("EVENTS_analytics", "webhooks"))
		b.must(err)
		if event.Attempts != 0 || time.Since(event.PublishedAt) > time.Minute {
			t.Errorf("a service could forge %d attempts and the time %v", event.Attempts, event.PublishedAt)
		}
		return event
	}
	if got := publish(streams.HeaderMsgID, "mine-1").ID; got != "mine-1" {
		t.Errorf("ID = %q, want the publisher's", got)
	}
	if got := publish(streams.HeaderID, "replayed").ID; got != "replayed" {
		t.Errorf("ID = %q, want that of Backstop-Id", got)
	}
	none := publish("", "")
	if none.ID != none.Origin || !streams.ValidID(none.ID) {
		t.Errorf("ID = %q without one, want the origin %q in the alphabet", none.ID, none.Origin)
	}
	odd := publish(streams.HeaderMsgID, "odd id/with spaces")
	if !streams.ValidID(odd.ID) || strings.Contains(odd.ID, "odd") {
		t.Errorf("ID = %q for an id outside the alphabet, want a hash", odd.ID)
	}
}

// Whatever lies in a stream of events was acknowledged, and becomes a dead
// letter at least, of an endpoint that can't exist.
func TestStrayMessagesCanBeDeadLettered(t *testing.T) {
	for subject, want := range map[string]streams.EndpointID{
		"events.analytics.*":       {Capability: "analytics", App: "*"},
		"events.analytics.>":       {Capability: "analytics", App: ">"},
		"events.analytics.a.b":     {Capability: "analytics", App: "a.b"},
		"events.analytics.":        {Capability: "analytics", App: "events.analytics."},
		"lanes.*.quiz":             {Capability: "*", App: "quiz"},
		"retired.events.analytics": {Capability: "analytics", App: "retired.events.analytics"},
		"odd":                      {App: "odd"},
	} {
		event, err := streams.DecodeRaw(&jetstream.RawStreamMsg{Subject: subject, Data: []byte(`{}`), Sequence: 7, Time: time.Now()})
		if err == nil || event.EndpointID != want || event.Origin == "" || event.ID == "" {
			t.Errorf("%s: %+v, %v", subject, event, err)
			continue
		}
		msg := streams.DeadLetter{Event: event, Reason: streams.NoRoute, Err: err.Error()}.Msg()
		letter, err := streams.DecodeDeadLetter(msg.Subject, msg.Header, msg.Data, 1)
		if err != nil || streams.ValidName(letter.App) && streams.ValidName(letter.Capability) || strings.Count(msg.Subject, ".") != 2 {
			t.Errorf("%s: the dead letter on %s is that of %v (%v)", subject, msg.Subject, letter.EndpointID, err)
		}
	}
}

func TestLaneMessageCarriesWhatTheBrokerCannotCount(t *testing.T) {
	b := setup(t)
	msg := nats.NewMsg(quiz.Subject(streams.Events))
	msg.Data = []byte(`{"a":1}`)
	msg.Header.Set(streams.HeaderMsgID, "id-1")
	msg.Header.Set(streams.HeaderTraceParent, "00-x")
	_, err := b.js.PublishMsg(b.ctx, msg)
	b.must(err)
	event, err := streams.Decode(b.next("EVENTS_analytics", "webhooks"))
	b.must(err)

	event.Attempts, event.Redeliveries, event.NotBefore = 2, 1, time.Now().Add(time.Hour)
	for range 2 { // parked twice, as after a crash before the ack
		_, err = b.js.PublishMsg(b.ctx, event.LaneMsg())
		b.must(err)
	}
	if got := b.messages("LANES"); got != 1 {
		t.Fatalf("LANES holds %d messages after parking one delivery twice, want 1", got)
	}
	_, err = b.js.CreateOrUpdateConsumer(b.ctx, streams.LaneStream, quiz.LaneConfig(time.Time{}))
	b.must(err)
	parked, err := streams.Decode(b.next("LANES", "analytics__quiz"))
	b.must(err)
	if parked.Hops != 1 || !parked.NotBefore.Equal(event.NotBefore) || !parked.PublishedAt.Equal(event.PublishedAt) {
		t.Errorf("parked as %+v, from %+v", parked, event)
	}
	event.Hops, event.NotBefore, event.PublishedAt = parked.Hops, parked.NotBefore, parked.PublishedAt
	if !bytes.Equal(parked.Payload, event.Payload) {
		t.Errorf("payload %s became %s", event.Payload, parked.Payload)
	}
	parked.Payload, event.Payload = nil, nil
	if fmt.Sprintf("%+v", parked) != fmt.Sprintf("%+v", event) {
		t.Errorf("parked as %+v\nfrom      %+v", parked, event)
	}
	// The same attempts, parked again after that: another hop, not a duplicate.
	_, err = b.js.PublishMsg(b.ctx, parked.LaneMsg())
	b.must(err)
	if got := b.messages("LANES"); got != 2 {
		t.Errorf("LANES holds %d messages after the next hop, want 2: it was lost as a duplicate", got)
	}
}

func TestPublishBatch(t *testing.T) {
	b := setup(t)
	batch := func(n int) []*nats.Msg {
		msgs := make([]*nats.Msg, n)
		for i := range msgs {
			msg, err := streams.EventMsg(quiz, "", []byte(`{}`))
			b.must(err)
			msgs[i] = msg
		}
		return msgs
	}
	for _, n := range []int{0, 1, 2, streams.MaxBatch} {
		before := b.messages("EVENTS_analytics")
		b.must(streams.PublishBatch(b.ctx, b.nc, batch(n)))
		if got := b.messages("EVENTS_analytics") - before; int(got) != n {
			t.Errorf("a batch of %d stored %d", n, got)
		}
	}
	if err := streams.PublishBatch(b.ctx, b.nc, batch(streams.MaxBatch+1)); err == nil {
		t.Error("a batch over the limit was taken")
	}
	before := b.messages("EVENTS_analytics")
	twice := batch(3)
	twice[2].Header.Set(streams.HeaderMsgID, twice[0].Header.Get(streams.HeaderMsgID))
	if err := streams.PublishBatch(b.ctx, b.nc, twice); err == nil {
		t.Error("a batch with one id twice was taken")
	}
	if got := b.messages("EVENTS_analytics"); got != before {
		t.Errorf("a refused batch stored %d messages", got-before)
	}
}

// A store that has shrunk below what is reserved, as beside other data on the
// disk, must not keep the pipeline from starting.
func TestShrunkenStoreKeepsItsStreams(t *testing.T) {
	b := setup(t, natstest.StoreMax(512<<20))
	_, err := streams.NewPublisher(b.js).Publish(b.ctx, quiz, "kept", []byte(`{}`))
	b.must(err)
	small := streams.NewTopology(b.js, streams.Settings{StoreBytes: 64 << 30}) // wants far more than there is
	b.must(small.Ensure(b.ctx))
	b.must(small.EnsureCapability(b.ctx, quiz.Capability))
	if got := b.messages("EVENTS_analytics"); got != 1 {
		t.Errorf("EVENTS_analytics holds %d messages, want the one from before", got)
	}
}
