package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/manifest"
	"backstop/streams/secrets"
)

const (
	onlyAnalytics = `{"analytics":{"path":"/a","headers":{"X-Tenant":"hidden"}}}`
	andEmail      = `{"analytics":{"path":"/a"},"email":{"path":"/e"}}`
)

func TestApply(t *testing.T) {
	b := newBundle(t)
	none, one := uint64(0), uint64(1)
	first, err := b.Apply(t.Context(), ann, b.parse(onlyAnalytics), secrets.Secret{}, &none)
	b.must(err)
	if !first.Created || secrets.Check(first.Secret) != nil || first.Revision != 1 {
		t.Fatalf("first: %+v", first)
	}
	if _, err = b.Apply(t.Context(), ann, b.parse(onlyAnalytics), secrets.Secret{}, &none); !errors.Is(err, manifest.ErrConflict) {
		t.Errorf("made a second time: %v, want ErrConflict", err)
	}
	again, err := b.Apply(t.Context(), ann, b.parse(onlyAnalytics), secrets.Secret{}, &one)
	b.must(err)
	if again.Created || again.Secret != "" || again.Revision != 1 {
		t.Errorf("the same again: %+v", again)
	}
	changed, err := b.Apply(t.Context(), ann, b.parse(andEmail), secrets.Secret{}, &one)
	b.must(err)
	if changed.Revision != 2 || changed.Secret != "" {
		t.Errorf("changed: %+v", changed)
	}
	if _, err = b.Apply(t.Context(), ann, b.parse(onlyAnalytics), secrets.Secret{}, &one); !errors.Is(err, manifest.ErrConflict) {
		t.Errorf("over a newer revision: %v, want ErrConflict", err)
	}
	// What changed nothing, and what was refused, is not on record; what is
	// there holds no secret.
	record := b.record()
	if len(record) != 2 {
		t.Fatalf("on record: %+v", record)
	}
	if len(record[0].Before) != 0 || string(record[1].Before) != string(record[0].After) || !strings.Contains(string(record[1].After), `"email"`) {
		t.Errorf("before and after: %s", document(record))
	}
	if text := string(document(record)); strings.Contains(text, first.Secret) || strings.Contains(text, "hidden") {
		t.Errorf("a secret is on record: %s", text)
	}
}

func TestRemove(t *testing.T) {
	b := newBundle(t)
	if err := b.Remove(t.Context(), ann, "quiz", nil); !errors.Is(err, manifest.ErrNotFound) {
		t.Errorf("removing nothing: %v", err)
	}
	_, err := b.Apply(t.Context(), ann, b.parse(andEmail), secrets.Secret{}, nil)
	b.must(err)
	_, err = b.OpenBreaker(t.Context(), ann, quiz, "")
	b.must(err)
	two := uint64(2)
	if err := b.Remove(t.Context(), ann, "quiz", &two); !errors.Is(err, manifest.ErrConflict) {
		t.Errorf("removing another revision: %v", err)
	}
	one := uint64(1)
	b.must(b.Remove(t.Context(), ann, "quiz", &one))
	gates, err := b.Gates(t.Context())
	b.must(err)
	sealed, err := b.secrets(t.Context())
	b.must(err)
	if has, _ := sealed.Has(t.Context(), "quiz"); has || len(gates) != 0 {
		t.Errorf("left over: secrets %v, gates %v", has, gates)
	}
	if last := b.record()[2]; last.What != streams.AuditAppRemoved || !strings.Contains(string(last.Before), `"email"`) || len(last.After) != 0 {
		t.Errorf("on record: %+v", last)
	}
}

func TestSwitches(t *testing.T) {
	b := newBundle(t)
	_, err := b.Apply(t.Context(), ann, b.parse(andEmail), secrets.Secret{}, nil)
	b.must(err)

	var wrong *NotDeclaredError
	if _, err := b.OpenBreaker(t.Context(), ann, streams.EndpointID{App: "quiz", Capability: "report"}, ""); !errors.As(err, &wrong) || len(wrong.Declared) != 2 {
		t.Errorf("opening what isn't declared: %v", err)
	}
	changes, err := b.Disable(t.Context(), ann, streams.EndpointID{App: "quiz"}, "contract ended")
	b.must(err)
	if len(changes) != 2 || !changes[0].Changed || changes[1].Capability != "email" {
		t.Errorf("disable all: %+v", changes)
	}
	var off *DisabledError
	if _, err := b.OpenBreaker(t.Context(), ann, quiz, ""); !errors.As(err, &off) || off.Gate.Reason != "contract ended" || off.Gate.ID() != quiz {
		t.Errorf("opening what is disabled: %v", err)
	}
	if _, err := b.ResetBreaker(t.Context(), ann, quiz); !errors.As(err, &off) {
		t.Errorf("resetting what is disabled: %v", err)
	}
	changes, err = b.Disable(t.Context(), Actor{Name: "bob"}, quiz, "me too")
	b.must(err)
	if changes[0].Changed {
		t.Error("disabling twice changes something")
	}
	changes, err = b.Enable(t.Context(), ann, streams.EndpointID{App: "quiz"})
	b.must(err)
	if len(changes) != 2 || !changes[0].Changed || changes[0].State != StateEnabled {
		t.Errorf("enable all: %+v", changes)
	}
	state, err := b.ResetBreaker(t.Context(), ann, quiz)
	b.must(err)
	if state.Changed || state.State != StateClosed {
		t.Errorf("resetting what is closed: %+v", state)
	}
	// Applied, two disabled, two enabled; what changed nothing is not there.
	var whats []string
	for _, e := range b.record() {
		whats = append(whats, string(e.What)+" "+e.Capability)
	}
	if got := strings.Join(whats, ","); got != "app_applied ,endpoint_disabled analytics,endpoint_disabled email,endpoint_enabled analytics,endpoint_enabled email" {
		t.Errorf("on record: %s", got)
	}
	if n := b.messages(streams.NoticeStream); n != 4 || len(b.warnings) != 0 {
		t.Errorf("%d notices, warnings %v; want one for each change", n, b.warnings)
	}
}

// A replica may hold what the bucket had no room or leader for: it hears of an
// enabling and of a reset all the same, and those are no change to be on record.
func TestReplicasHearOfWhatChangesNothing(t *testing.T) {
	b := newBundle(t)
	_, err := b.Apply(t.Context(), ann, b.parse(onlyAnalytics), secrets.Secret{}, nil)
	b.must(err)
	gates, err := b.gates(t.Context())
	b.must(err)
	heard, loaded := make(chan *streams.Gate, 8), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_ = gates.Watch(ctx, slog.New(slog.DiscardHandler), func() { close(loaded) }, func(_ streams.EndpointID, g *streams.Gate) { heard <- g })
		close(heard)
	}()
	<-loaded
	hear := func() *streams.Gate {
		t.Helper()
		select {
		case g := <-heard:
			return g
		case <-time.After(30 * time.Second):
			t.Fatal("replicas hear nothing")
			return nil
		}
	}
	_, err = b.Enable(t.Context(), ann, quiz)
	b.must(err)
	if g := hear(); g != nil {
		t.Errorf("enabled: replicas hear of %+v", g)
	}
	_, err = b.ResetBreaker(t.Context(), ann, quiz)
	b.must(err)
	if g := hear(); g != nil {
		t.Errorf("reset: replicas hear of %+v", g)
	}
	_, err = b.OpenBreaker(t.Context(), ann, quiz, "")
	b.must(err)
	hear()
	_, err = b.Enable(t.Context(), ann, quiz)
	b.must(err)
	if g := hear(); g == nil || g.State != streams.GateForced {
		t.Errorf("enabled while an operator holds it open: replicas hear of %+v", g)
	}
	if n := len(b.record()); n != 2 {
		t.Errorf("%d entries on record, want those of the app and the breaker", n)
	}
	cancel()
	for range heard { // until the watch has ended
	}
}

// Nothing is changed that can't be put on record.
func TestNoChangeWithoutRecord(t *testing.T) {
	b := newBundle(t)
	_, err := b.Apply(t.Context(), ann, b.parse(andEmail), secrets.Secret{}, nil)
	b.must(err)
	b.must(b.js.DeleteStream(t.Context(), streams.AuditStream))
	if _, err := b.OpenBreaker(t.Context(), ann, quiz, ""); !errors.Is(err, jetstream.ErrStreamNotFound) || !strings.Contains(err.Error(), "nothing was done") {
		t.Errorf("opening without an audit: %v", err)
	}
	gates, err := b.Gates(t.Context())
	b.must(err)
	if len(gates) != 0 {
		t.Errorf("changed all the same: %+v", gates)
	}
}

func TestRotateSecret(t *testing.T) {
	b := newBundle(t)
	if _, err := b.RotateSecret(t.Context(), ann, "quiz", secrets.Secret{}, secrets.Grace); !errors.Is(err, manifest.ErrNotFound) {
		t.Errorf("of no app: %v", err)
	}
	first, err := b.Apply(t.Context(), ann, b.parse(andEmail), secrets.Secret{}, nil)
	b.must(err)
	next, err := b.RotateSecret(t.Context(), ann, "quiz", secrets.Secret{}, secrets.Grace)
	b.must(err)
	if secrets.Check(next.Secret) != nil || next.Secret == first.Secret {
		t.Error("no new secret")
	}
	record, err := json.Marshal(b.record())
	b.must(err)
	if strings.Contains(string(record), "whsec_") {
		t.Error("a secret is on record")
	}
}

func TestAllowedNetworks(t *testing.T) {
	b := newBundle(t)
	networks, err := b.AllowedNetworks(t.Context())
	b.must(err)
	if len(networks) != 2 || networks[1].String() != "10.0.0.0/8" {
		t.Errorf("networks %v", networks)
	}
}

// The age of an own lane is that of its first event; an empty lane has none.
func TestOldestInLane(t *testing.T) {
	b := newBundle(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 2 {
		event := streams.Event{ID: fmt.Sprint("e", i), Origin: fmt.Sprint(i), EndpointID: quiz, Payload: []byte(`{}`), PublishedAt: at.Add(time.Duration(i) * time.Hour)}
		_, err := b.js.PublishMsg(t.Context(), event.LaneMsg())
		b.must(err)
	}
	if oldest, err := b.OldestInLane(t.Context(), quiz); err != nil || !oldest.Equal(at) {
		t.Errorf("the oldest is of %s (%v), want %s", oldest, err, at)
	}
	if oldest, err := b.OldestInLane(t.Context(), streams.EndpointID{Capability: "analytics", App: "shop"}); err != nil || !oldest.IsZero() {
		t.Errorf("an empty lane's oldest is of %s (%v)", oldest, err)
	}
}
