// Package opstest makes of a test's NATS one that operators work on.
package opstest

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/secrets"
)

// Prepare makes what `serve` makes: streams and buckets, those of the
// capability as well, and the key that secrets are sealed with.
func Prepare(t testing.TB, js jetstream.JetStream, allowedNetworks, capability string) {
	t.Helper()
	topology := streams.NewTopology(js, streams.Settings{AllowedNetworks: allowedNetworks})
	if err := errors.Join(topology.Ensure(t.Context()), topology.EnsureCapability(t.Context(), capability)); err != nil {
		t.Fatal(err)
	}
	sealed, err := js.KeyValue(t.Context(), streams.SecretsBucket)
	if err != nil {
		t.Fatal(err)
	}
	key, err := secrets.LoadOrCreateKey(t.TempDir() + "/secrets.key")
	if err != nil {
		t.Fatal(err)
	}
	if err := secrets.Publish(t.Context(), sealed, key); err != nil {
		t.Fatal(err)
	}
}
