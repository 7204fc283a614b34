package dispatcher

import (
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		value  string
		want   time.Duration
		reason string
	}{
		{"120", 2 * time.Minute, "seconds"},
		{" 5 ", 5 * time.Second, "spaces are no mistake"},
		{"007", 7 * time.Second, "nor are zeros"},
		{"0", 0, "at once"},
		{"3600", time.Hour, "the most"},
		{"3601", time.Hour, "more is clamped"},
		{"86400", time.Hour, "a day too"},
		{"9223372036854775807", time.Hour, "64 bits would overflow a duration"},
		{"1000000000000000000000000000000", 0, "10^30 is no time"},
		{"-5", 0, "negative"},
		{"+5", 0, "a sign"},
		{"1.5", 0, "a fraction"},
		{"1e3", 0, "an exponent"},
		{"0x10", 0, "hex"},
		{"5s", 0, "a unit"},
		{"5, 10", 0, "a list"},
		{"soon", 0, "a word"},
		{"", 0, "nothing"},
		{"   ", 0, "spaces only"},
		{"٣", 0, "digits of another script"},
		{"Sun, 01 Mar 2026 12:02:00 GMT", 2 * time.Minute, "a date"},
		{"Sunday, 01-Mar-26 12:02:00 GMT", 2 * time.Minute, "an old form of date"},
		{"Sun Mar  1 12:02:00 2026", 2 * time.Minute, "an older one"},
		{"Sun, 01 Mar 2026 11:59:59 GMT", 0, "past"},
		{"Sun, 01 Mar 2026 12:00:00 GMT", 0, "now"},
		{"Thu, 01 Jan 1970 00:00:00 GMT", 0, "long past"},
		{"Fri, 31 Dec 9999 23:59:59 GMT", time.Hour, "far off"},
		{"2026-03-01T12:02:00Z", 0, "not an HTTP date"},
		{"Sun, 32 Mar 2026 12:02:00 GMT", 0, "no such day"},
	}
	for _, test := range tests {
		if got := parseRetryAfter(test.value, now); got != test.want {
			t.Errorf("%q: %v, want %v: %s", test.value, got, test.want, test.reason)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"120", "-1", "1.5", "Sun, 01 Mar 2026 12:02:00 GMT", "99999999999999999999", "\x00"} {
		f.Add(s, int64(1772366400))
	}
	f.Fuzz(func(t *testing.T, value string, now int64) {
		if d := parseRetryAfter(value, time.Unix(now, 0)); d < 0 || d > MaxRetryAfter {
			t.Fatalf("%q: %v", value, d)
		}
	})
}
