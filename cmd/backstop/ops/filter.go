package ops

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"backstop/streams"
)

// Criteria select dead letters, as a person or a program writes them. Empty
// ones select all.
type Criteria struct {
	App, Capability, Reason string
	// Fingerprint is that of a Group.
	Fingerprint string
	// Since and Until are as PointInTime reads them.
	Since, Until string
}

// CriterionError says which criterion is wrong, by the name of its field in
// lower case, and how.
type CriterionError struct {
	Name string
	Err  error
}

func (e *CriterionError) Error() string { return e.Name + " " + e.Err.Error() }
func (e *CriterionError) Unwrap() error { return e.Err }

// None tells whether there is no criterion.
func (c Criteria) None() bool { return c == (Criteria{}) }

// Filter returns what the criteria select among the given ids, or among all.
// The error is a CriterionError.
func (c Criteria) Filter(now time.Time, ids []string) (streams.Filter, error) {
	f := streams.Filter{IDs: ids, App: c.App, Capability: c.Capability}
	for name, token := range map[string]string{"app": c.App, "capability": c.Capability} {
		// Any token that NATS allows, not only a valid name: an event for an
		// app that can't exist is a dead letter under just that name.
		if strings.ContainsAny(token, ".*> \t\r\n") {
			return f, &CriterionError{name, fmt.Errorf("%q: want one name; without it all of them match", token)}
		}
	}
	if c.Reason != "" {
		for _, r := range streams.DeadLetterReasons() {
			if c.Reason == string(r) {
				f.Reason = r
			}
		}
		if f.Reason == "" {
			return f, &CriterionError{"reason", fmt.Errorf("%q: want one of %s", c.Reason, Reasons())}
		}
	}
	if f.Fingerprint = c.Fingerprint; f.Fingerprint != "" && !fingerprintPattern.MatchString(f.Fingerprint) {
		return f, &CriterionError{"fingerprint", fmt.Errorf("%q: want the eight digits of a group", c.Fingerprint)}
	}
	var err error
	if f.Since, err = PointInTime(now, c.Since); err != nil {
		return f, &CriterionError{"since", err}
	}
	if f.Until, err = PointInTime(now, c.Until); err != nil {
		return f, &CriterionError{"until", err}
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && f.Until.Before(f.Since) {
		return f, &CriterionError{"until", fmt.Errorf("%s is before the time since when, %s", c.Until, c.Since)}
	}
	return f, nil
}

var fingerprintPattern = regexp.MustCompile(`^[0-9a-f]{8}$`)

// Reasons lists why events become dead letters, for a message.
func Reasons() string {
	names := make([]string, 0, len(streams.DeadLetterReasons()))
	for _, r := range streams.DeadLetterReasons() {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// PointInTime reads a time as a person writes it: RFC 3339, a date and time or
// a date in the zone of now (its midnight), or how long ago, with d for days.
// Empty is the zero time.
func PointInTime(now time.Time, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	d, err := time.ParseDuration(s)
	if days, isDays := strings.CutSuffix(s, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("%q: want how long ago (90m, 24h, 7d), a date (2026-01-31), or RFC 3339 (2026-01-31T12:00:00Z)", s)
	}
	return now.Add(-d), nil
}
