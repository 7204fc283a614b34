package consumers

import (
	"testing"
	"time"

	"backstop/streams/manifest"
)

func TestUnspread(t *testing.T) {
	policy := func(b manifest.Backoff) manifest.RetryPolicy {
		return manifest.RetryPolicy{InitialDelay: time.Second, MaxDelay: 30 * time.Second, Backoff: b}
	}
	for _, tc := range []struct {
		backoff  manifest.Backoff
		attempts int
		want     time.Duration
		why      string
	}{
		{manifest.Exponential, 1, time.Second, "the first wait is the initial delay"},
		{manifest.Exponential, 2, 2 * time.Second, "it doubles"},
		{manifest.Exponential, 5, 16 * time.Second, "and again"},
		{manifest.Exponential, 6, 30 * time.Second, "up to the most"},
		{manifest.Exponential, 10_000, 30 * time.Second, "without overflowing"},
		{"", 3, 4 * time.Second, "exponential is the default"},
		{manifest.Linear, 3, 3 * time.Second, "grows by the initial delay"},
		{manifest.Linear, 31, 30 * time.Second, "up to the most"},
		{manifest.Linear, 1 << 62, 30 * time.Second, "without overflowing"},
		{manifest.Fixed, 7, time.Second, "stays"},
	} {
		if got := unspread(policy(tc.backoff), tc.attempts); got != tc.want {
			t.Errorf("%s after %d: %v, want %v: %s", tc.backoff, tc.attempts, got, tc.want, tc.why)
		}
	}
	if got := unspread(manifest.RetryPolicy{InitialDelay: time.Minute, MaxDelay: time.Second}, 1); got != time.Second {
		t.Errorf("an initial delay above the most: %v, want the most", got)
	}
}

func TestDelayIsSpreadAndHonoursRetryAfter(t *testing.T) {
	p := manifest.RetryPolicy{InitialDelay: time.Second, MaxDelay: 30 * time.Second}
	least, most := time.Hour, time.Duration(0)
	for range 10_000 {
		d := delay(p, 2, 0)
		least, most = min(least, d), max(most, d)
	}
	if least < 1600*time.Millisecond || most > 2400*time.Millisecond {
		t.Errorf("delays from %v to %v, want within 20%% of 2 s", least, most)
	}
	if least > 1650*time.Millisecond || most < 2350*time.Millisecond {
		t.Errorf("delays from %v to %v are hardly spread", least, most)
	}
	if d := delay(p, 1, time.Minute); d != time.Minute {
		t.Errorf("with Retry-After of a minute: %v", d)
	}
	if d := delay(p, 5, time.Second); d < 10*time.Second {
		t.Errorf("a shorter Retry-After shortened the delay to %v", d)
	}
}

func TestTrimmerKeepsTheDeduplicationWindow(t *testing.T) {
	tr := newTrimmer(nil)
	start := time.Now()
	var got []uint64
	for i := range 8 { // the stream grows by ten a minute
		got = append(got, tr.aged("S", position{at: start.Add(time.Duration(i) * time.Minute), last: uint64(10 * (i + 1))}))
	}
	// Two minutes must be over: at minute 3 what was there at minute 0 may go.
	want := []uint64{0, 0, 0, 10, 20, 30, 40, 50}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("aged by minute: %v, want %v", got, want)
		}
	}
	if n := len(tr.seen["S"]); n > 5 {
		t.Errorf("%d positions are kept, which grows without end", n)
	}
}
