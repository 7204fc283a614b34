package consumers

import (
	"log/slog"
	"testing"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// TestStreamsAreComparedWithWhatWasDone: another replica, or a person, may have
// opened or closed the stream of a capability since this replica did. The next
// comparison with the manifests has to see to it again.
func TestStreamsAreComparedWithWhatWasDone(t *testing.T) {
	t.Parallel()
	topology := streams.NewTopology(natstest.Start(t).JetStream(), streams.Settings{StoreBytes: 1 << 30})
	c := newCapabilities(&Pipeline{cfg: Config{Topology: topology}, log: slog.New(slog.DiscardHandler)})
	for _, name := range []string{"open", "closed"} {
		if err := topology.EnsureCapability(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := topology.RetireCapability(t.Context(), "closed"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		stream     string
		left, want laneState
	}{
		{"open", ensured, ensured},
		{"open", retired, adopted},
		{"closed", retired, retired},
		{"closed", ensured, adopted},
		{"gone", retired, retired},
		{"gone", ensured, adopted},
	} {
		c.lanes = map[string]laneState{tc.stream: tc.left}
		c.verify(t.Context())
		if got := c.state(tc.stream); got != tc.want {
			t.Errorf("%s, and left as %v: now %v, want %v", tc.stream, tc.left, got, tc.want)
		}
	}
}
