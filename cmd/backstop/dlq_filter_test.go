package main

import (
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
		got, err := pointInTime(now, test.in)
		if err != nil || !got.Equal(test.want) {
			t.Errorf("%q (%s): got %v, %v; want %v", test.in, test.why, got, err, test.want)
		}
	}
	for _, in := range []string{"-1h", "yesterday", "-3d", "1.5d", "d", "2026-13-01", "99999999d", "12"} {
		if got, err := pointInTime(now, in); err == nil {
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
		got, err := pointInTime(now, s)
		if err == nil && s != "" && !strings.Contains(s, "-") && got.After(now) {
			t.Errorf("%q is in the future: %v", s, got)
		}
	})
}

func TestFilter(t *testing.T) {
	now := time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		in   filterOptions
		want string // part of the error; empty: none
		why  string
	}{
		{filterOptions{app: "quiz", capability: "analytics", reason: "no_route", since: "2h", until: "1h"}, "", "all of them"},
		{filterOptions{app: "odd$name"}, "", "a dead letter may have a name that no app can have"},
		{filterOptions{app: "*"}, "--app", "a wildcard would select what nobody meant"},
		{filterOptions{capability: "a.b"}, "--capability", "two tokens"},
		{filterOptions{reason: "bored"}, "want one of exhausted", "no such reason"},
		{filterOptions{since: "soon"}, "--since", "no time"},
		{filterOptions{until: "soon"}, "--until", "no time"},
		{filterOptions{since: "1h", until: "2h"}, "is before", "the wrong way round"},
	}
	for _, test := range tests {
		_, err := test.in.filter(now, nil)
		if test.want == "" && err != nil || test.want != "" && (exitCode(err) != exitUsage || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%+v (%s): got %v, want %q", test.in, test.why, err, test.want)
		}
	}
	f := filterOptions{app: "quiz", reason: "expired", since: "1h"}
	got, err := f.filter(now, []string{"a"})
	if err != nil || got.App != "quiz" || got.Reason != streams.Expired || !got.Since.Equal(now.Add(-time.Hour)) || len(got.IDs) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPerSecond(t *testing.T) {
	for in, want := range map[string]float64{"": 0, "50/s": 50, "50": 50, "0.5/s": 0.5} {
		if got, err := perSecond(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"0/s", "-1/s", "fast", "50/m", "NaN/s", "Inf", "/s"} {
		if _, err := perSecond(in); exitCode(err) != exitUsage {
			t.Errorf("%q: got %v, want wrong usage", in, err)
		}
	}
}
