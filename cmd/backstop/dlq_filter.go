package main

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// filterOptions are the flags that select dead letters.
type filterOptions struct{ ops.Criteria }

func (f *filterOptions) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.App, "app", "", "only this app's")
	flags.StringVar(&f.Capability, "capability", "", "only this capability's")
	flags.StringVar(&f.Reason, "reason", "", "only those given up for this reason: "+ops.Reasons())
	flags.StringVar(&f.Fingerprint, "fingerprint", "", "only those of a group that \"dlq groups\" shows")
	flags.StringVar(&f.Since, "since", "", "only those given up since then: 24h or 7d ago, a date, or RFC 3339")
	flags.StringVar(&f.Until, "until", "", "only those given up until then, as --since")
	// The only error is a flag that doesn't exist.
	_ = cmd.RegisterFlagCompletionFunc("reason", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return strings.Split(ops.Reasons(), ", "), cobra.ShellCompDirectiveNoFileComp
	})
}

// filter returns what the flags select among the given ids, or among all.
func (f *filterOptions) filter(now time.Time, ids []string) (streams.Filter, error) {
	filter, err := f.Filter(now, ids)
	if wrong, is := errors.AsType[*ops.CriterionError](err); is {
		return filter, usageErrorf("--%w", wrong)
	}
	return filter, err
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
