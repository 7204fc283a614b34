package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"backstop/streams"
)

// filterOptions are the flags that select dead letters.
type filterOptions struct {
	app, capability, reason, since, until string
}

func (f *filterOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.app, "app", "", "only this app's")
	flags.StringVar(&f.capability, "capability", "", "only this capability's")
	flags.StringVar(&f.reason, "reason", "", "only those given up for this reason: "+reasons())
	flags.StringVar(&f.since, "since", "", "only those given up since then: 24h or 7d ago, a date, or RFC 3339")
	flags.StringVar(&f.until, "until", "", "only those given up until then, as --since")
	// The only error is a flag that doesn't exist.
	_ = cmd.RegisterFlagCompletionFunc("reason", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return strings.Split(reasons(), ", "), cobra.ShellCompDirectiveNoFileComp
	})
}

func reasons() string {
	names := make([]string, 0, len(streams.DeadLetterReasons()))
	for _, r := range streams.DeadLetterReasons() {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// none tells whether no filter was given.
func (f *filterOptions) none() bool { return *f == (filterOptions{}) }

// filter returns what the flags select among the given ids, or among all.
func (f *filterOptions) filter(now time.Time, ids []string) (streams.Filter, error) {
	filter := streams.Filter{IDs: ids, App: f.app, Capability: f.capability}
	for flag, token := range map[string]string{"--app": f.app, "--capability": f.capability} {
		// Any token that NATS allows, not only a valid name: an event for an
		// app that can't exist is a dead letter under just that name.
		if strings.ContainsAny(token, ".*> \t\r\n") {
			return filter, usageErrorf("%s %q: want one name; without the flag all of them match", flag, token)
		}
	}
	if f.reason != "" {
		for _, r := range streams.DeadLetterReasons() {
			if f.reason == string(r) {
				filter.Reason = r
			}
		}
		if filter.Reason == "" {
			return filter, usageErrorf("--reason %q: want one of %s", f.reason, reasons())
		}
	}
	var err error
	if filter.Since, err = pointInTime(now, f.since); err != nil {
		return filter, usageErrorf("--since %w", err)
	}
	if filter.Until, err = pointInTime(now, f.until); err != nil {
		return filter, usageErrorf("--until %w", err)
	}
	if !filter.Since.IsZero() && !filter.Until.IsZero() && filter.Until.Before(filter.Since) {
		return filter, usageErrorf("--until %s is before --since %s", f.until, f.since)
	}
	return filter, nil
}

// pointInTime reads a time as a person writes it: RFC 3339, a date and time or
// a date in local time (its midnight), or how long ago, with d for days. Empty
// is the zero time.
func pointInTime(now time.Time, s string) (time.Time, error) {
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

// perSecond reads "50/s", "50" or "0.5/s". Empty is 0: no limit.
func perSecond(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(s, "/s"), 64)
	if err != nil || !(n >= 0.001 && n <= 1e6) {
		return 0, usageErrorf("--rate %q: want a number a second, such as 50/s", s)
	}
	return n, nil
}
