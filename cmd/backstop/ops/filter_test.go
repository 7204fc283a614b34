package ops

import (
	"errors"
	"strings"
	"testing"
	"time"

	"backstop/streams"
)

func TestPointInTime(t *testing.T) {
	zone := time.FixedZone("east", 2*60*60)
	now := time.Date(2026, 3, 15, 12, 0, 0, 0, zone)
	tests := []struct {
		in   string
		want time.Time
		why  string
	}{
		{"", time.Time{}, "not given"},
		{"24h", now.Add(-24 * time.Hour), "a duration is ago"},
		{"1h30m", now.Add(-90 * time.Minute), "any duration of Go's"},
		{"7d", now.AddDate(0, 0, -7), "days, which Go has not"},
		{"0s", now, "now"},
		{"2026-03-01T10:00:00Z", time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC), "RFC 3339"},
		{"2026-03-01T10:00:00.25+01:00", time.Date(2026, 3, 1, 9, 0, 0, 250e6, time.UTC), "with fraction and zone"},
		{"2026-03-01 10:00:00", time.Date(2026, 3, 1, 10, 0, 0, 0, zone), "local time"},
		{"2026-03-01", time.Date(2026, 3, 1, 0, 0, 0, 0, zone), "local midnight"},
	}
	for _, test := range tests {
		got, err := PointInTime(now, test.in)
		if err != nil || !got.Equal(test.want) {
			t.Errorf("%q (%s): got %v, %v; want %v", test.in, test.why, got, err, test.want)
		}
	}
	for _, in := range []string{"-1h", "yesterday", "-3d", "1.5d", "d", "2026-13-01", "99999999d", "12"} {
		if got, err := PointInTime(now, in); err == nil {
			t.Errorf("%q was taken for %v", in, got)
		}
	}
}

func FuzzPointInTime(f *testing.F) {
	for _, s := range []string{"", "24h", "7d", "2026-03-01", "2026-03-01T10:00:00Z", "-1h", "9223372036854775807d"} {
		f.Add(s)
	}
	now := time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := PointInTime(now, s)
		if err == nil && s != "" && !strings.Contains(s, "-") && got.After(now) {
			t.Errorf("%q is in the future: %v", s, got)
		}
	})
}

func TestFilter(t *testing.T) {
	now := time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		in   Criteria
		want string // part of the error; empty: none
		why  string
	}{
		{Criteria{App: "quiz", Capability: "analytics", Reason: "no_route", Since: "2h", Until: "1h"}, "", "all of them"},
		{Criteria{App: "odd$name"}, "", "a dead letter may have a name that no app can have"},
		{Criteria{App: "*"}, "app", "a wildcard would select what nobody meant"},
		{Criteria{Capability: "a.b"}, "capability", "two tokens"},
		{Criteria{Reason: "bored"}, "want one of exhausted", "no such reason"},
		{Criteria{Since: "soon"}, "since", "no time"},
		{Criteria{Until: "soon"}, "until", "no time"},
		{Criteria{Since: "1h", Until: "2h"}, "is before", "the wrong way round"},
	}
	for _, test := range tests {
		_, err := test.in.Filter(now, nil)
		if test.want == "" && err != nil || test.want != "" && (!errors.As(err, new(*CriterionError)) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%+v (%s): got %v, want %q", test.in, test.why, err, test.want)
		}
	}
	f := Criteria{App: "quiz", Reason: "expired", Since: "1h"}
	got, err := f.Filter(now, []string{"a"})
	if err != nil || got.App != "quiz" || got.Reason != streams.Expired || !got.Since.Equal(now.Add(-time.Hour)) || len(got.IDs) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}
