package ops

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/cmd/backstop/ops/opstest"
	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/manifest"
)

var (
	ann  = Actor{Name: "ann", Via: ViaCommand}
	quiz = streams.EndpointID{Capability: "analytics", App: "quiz"}
)

// bundle is a NATS as `serve` makes it, with the capability analytics.
type bundle struct {
	*testing.T
	*Ops
	js       jetstream.JetStream
	warnings []string
}

func newBundle(t *testing.T) *bundle {
	t.Helper()
	js := natstest.Start(t).JetStream()
	opstest.Prepare(t, js, "127.0.0.0/8,10.0.0.0/8", quiz.Capability)
	b := &bundle{T: t, js: js}
	b.Ops = New(Config{JetStream: js, Warn: func(text string) { b.warnings = append(b.warnings, text) }})
	return b
}

func (b *bundle) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// parse returns the manifest of quiz with the given webhooks.
func (b *bundle) parse(webhooks string) manifest.Manifest {
	b.Helper()
	m, err := manifest.Parse([]byte(`{"appId":"quiz","baseUrl":"https://quiz.example.com","webhooks":`+webhooks+`}`), manifest.Options{})
	b.must(err)
	return m
}

// record returns what is on record, oldest first.
func (b *bundle) record() []streams.AuditEntry {
	b.Helper()
	stream, err := b.js.Stream(b.Context(), streams.AuditStream)
	b.must(err)
	var entries []streams.AuditEntry
	for sequence := uint64(1); sequence <= stream.CachedInfo().State.LastSeq; sequence++ {
		msg, err := stream.GetMsg(b.Context(), sequence)
		b.must(err)
		var e streams.AuditEntry
		b.must(json.Unmarshal(msg.Data, &e))
		if msg.Subject != "audit."+string(e.What) {
			b.Errorf("%s is on %s", e.What, msg.Subject)
		}
		entries = append(entries, e)
	}
	return entries
}

func (b *bundle) messages(stream string) uint64 {
	b.Helper()
	s, err := b.js.Stream(b.Context(), stream)
	b.must(err)
	return s.CachedInfo().State.Msgs
}
