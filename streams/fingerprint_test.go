package streams_test

import (
	"testing"

	"backstop/streams"
)

func TestFingerprint(t *testing.T) {
	base := streams.DeadLetter{Reason: streams.Exhausted, Status: 503, Err: `the app answered 503 Service Unavailable after 31 ms: "try order-17 later"`}
	same := base
	same.ID, same.Err = "another", `the app answered 503 Service Unavailable after 1204 ms: "try order-9 later"`
	if base.Fingerprint() != same.Fingerprint() {
		t.Errorf("%q and %q are of one cause", base.SameError(), same.SameError())
	}
	if want := `the app answered 503 Service Unavailable after # ms: #`; base.SameError() != want {
		t.Errorf("got %q, want %q", base.SameError(), want)
	}
	for name, change := range map[string]func(*streams.DeadLetter){
		"another reason": func(d *streams.DeadLetter) { d.Reason = streams.Expired },
		"another status": func(d *streams.DeadLetter) { d.Status = 500 },
		"another error":  func(d *streams.DeadLetter) { d.Err = "no such host" },
	} {
		other := base
		change(&other)
		if other.Fingerprint() == base.Fingerprint() {
			t.Errorf("%s has the same fingerprint", name)
		}
	}
	dial := streams.DeadLetter{Reason: streams.Exhausted, Err: "dial tcp 10.1.2.3:8443: connection refused"}
	if want := "dial tcp # connection refused"; dial.SameError() != want {
		t.Errorf("got %q, want %q", dial.SameError(), want)
	}
}
