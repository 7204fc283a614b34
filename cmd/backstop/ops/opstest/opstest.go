// Package opstest gives tests the NATS that operators work on.
package opstest

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/secrets"
)

// Start starts a server with all that `serve` makes on it: streams and buckets,
// those of the capability as well, and the key that secrets are sealed with.
func Start(t testing.TB, allowedNetworks, capability string) jetstream.JetStream {
	t.Helper()
	js := natstest.Start(t).JetStream()
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
	return js
}
