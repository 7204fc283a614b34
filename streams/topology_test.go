package streams_test

import (
	"fmt"
	"sync"
	"testing"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// TestReplicasMakeACapabilityAtOnce: whoever comes second finds it made, also
// when it would have made it a little smaller.
func TestReplicasMakeACapabilityAtOnce(t *testing.T) {
	srv := natstest.Start(t)
	const rounds, replicas = 20, 4
	for round := range rounds {
		var all sync.WaitGroup
		for i := range replicas {
			js := srv.JetStream()
			all.Go(func() {
				if err := streams.NewTopology(js, streams.Settings{StoreBytes: 1<<30 - int64(i)<<20}).EnsureCapability(t.Context(), fmt.Sprint("c", round)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}
