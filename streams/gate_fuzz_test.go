package streams

import "testing"

// A value of the breakers bucket, however it came there, speaks for the
// endpoint of its key alone.
func FuzzDecodeGate(f *testing.F) {
	f.Add("analytics.quiz", []byte(`{"state":"open","reason":"x","until":"2026-11-24T05:05:32Z"}`))
	f.Add("analytics.quiz", []byte(`{"capability":"email","app":"other","state":"disabled"}`))
	f.Add("", []byte(`null`))
	f.Add("a", []byte(`[]`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		g, err := decodeGate(key, value)
		if err == nil && g.ID() != gateID(key) {
			t.Errorf("the value of %q speaks for %v", key, g.ID())
		}
	})
}
