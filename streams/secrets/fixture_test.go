package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams/logtest"
)

// fixture is a bucket with a published key.
type fixture struct {
	t     *testing.T
	nats  *natstest.Server
	js    jetstream.JetStream
	kv    jetstream.KeyValue
	key   *Key
	store *Store
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	b := &fixture{t: t, nats: natstest.Start(t), key: testKey(t, 1)}
	b.js = b.nats.JetStream()
	var err error
	if b.kv, err = b.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "secrets"}); err != nil {
		t.Fatal(err)
	}
	if err := Publish(t.Context(), b.kv, b.key); err != nil {
		t.Fatal(err)
	}
	b.store = NewStore(b.kv)
	return b
}

func testKey(t *testing.T, seed byte) *Key {
	t.Helper()
	key, err := newKey(bytes.Repeat([]byte{seed}, keySize))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// keyring runs a keyring until the test ends, and returns it when it is ready.
func (b *fixture) keyring(key *Key, l *logtest.Buffer) *Keyring {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	k := NewKeyring(key, b.kv, slog.New(slog.NewTextHandler(l, nil)))
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- k.Run(ctx, func() { close(ready) }) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		b.t.Fatal("the keyring doesn't become ready")
	}
	return k
}

func (b *fixture) eventually(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			b.t.Fatal("never: " + what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// must tries a change until it succeeds, as a restart of the server demands.
func (b *fixture) must(change func(ctx context.Context) error) {
	b.t.Helper()
	b.eventually("the change succeeds", func() bool {
		ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Second)
		defer cancel()
		return change(ctx) == nil
	})
}

func (b *fixture) has(k *Keyring, app string, want ...Secret) func() bool {
	texts := make([]string, len(want))
	for i, s := range want {
		texts[i] = s.Reveal()
	}
	return func() bool { return slices.Equal(k.Active(app, time.Now()), texts) }
}

func recordOf(t *testing.T, kv jetstream.KeyValue, app string) record {
	t.Helper()
	entry, err := kv.Get(t.Context(), app)
	if err != nil {
		t.Fatal(err)
	}
	var r record
	if err := json.Unmarshal(entry.Value(), &r); err != nil {
		t.Fatal(err)
	}
	return r
}
