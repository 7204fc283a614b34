package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// noticeOptions are the flags of `notices`.
type noticeOptions struct {
	kind, app, capability, since string

	follow bool
	json   bool
}

func newNoticesCommand(a *app) *cobra.Command {
	var o noticeOptions
	cmd := &cobra.Command{
		Use:   "notices",
		Short: "Show what a person should know, also as it happens",
		Long: `Show the notices of the last day or since --since, oldest first; they are kept
for a week. With --follow, print new ones as they come, until Ctrl-C: after
those since --since, or without it only those.`,
		Example: `  backstop notices --since 7d
  backstop notices --follow
  backstop notices --follow --kind alert_raised --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := o.filter(time.Now())
			if err != nil {
				return err
			}
			if o.follow {
				return a.noticesFollow(cmd, filter, o.json)
			}
			return a.noticesList(cmd, filter, o.json)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.kind, "kind", "", "only this kind, such as breaker_opened or alert_raised")
	flags.StringVar(&o.app, "app", "", "only this app's")
	flags.StringVar(&o.capability, "capability", "", "only this capability's")
	flags.StringVar(&o.since, "since", "", "only those since then: 24h or 7d ago, a date, or RFC 3339")
	flags.BoolVar(&o.follow, "follow", false, "print notices as they come, until Ctrl-C; with --json one a line")
	addJSON(flags, &o.json)
	return cmd
}

func (o *noticeOptions) filter(now time.Time) (streams.NoticeFilter, error) {
	f := streams.NoticeFilter{Kind: streams.NoticeKind(o.kind), App: o.app, Capability: o.capability}
	if o.kind != "" {
		if err := streams.CheckName("kind", o.kind); err != nil {
			return f, &usageError{err}
		}
	}
	since := o.since
	if since == "" && !o.follow {
		since = "24h"
	}
	var err error
	if f.Since, err = ops.PointInTime(now, since); err != nil {
		return f, usageErrorf("--since %w", err)
	}
	return f, nil
}

func (a *app) noticesList(cmd *cobra.Command, filter streams.NoticeFilter, asJSON bool) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		notices := []streams.Notice{}
		for n, err := range streams.NewNoticeLog(c.js).Select(ctx, filter) {
			if err != nil {
				return err
			}
			notices = append(notices, n)
		}
		switch {
		case asJSON:
			return a.printJSON(notices)
		case len(notices) == 0:
			a.notef("No notices.")
			return nil
		}
		rows := make([][]string, len(notices))
		for i, n := range notices {
			rows[i] = noticeRow(n)
		}
		return a.table([]string{"TIME", "KIND", "APP", "CAPABILITY", "WHAT"}, rows)
	})
}

func (a *app) noticesFollow(cmd *cobra.Command, filter streams.NoticeFilter, asJSON bool) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		log := streams.NewNoticeLog(c.js)
		if filter.Since.IsZero() { // then from now on
			var err error
			if filter.After, err = log.Last(ctx); err != nil {
				return err
			}
		}
		return log.Follow(ctx, filter, func(n streams.Notice) error { return a.line(asJSON, n, noticeRow(n)) })
	})
}

func noticeRow(n streams.Notice) []string {
	return []string{
		n.Time.UTC().Format("2006-01-02T15:04:05Z"), printable(string(n.Kind)), dash(printable(n.App)), dash(printable(n.Capability)), clip(n.Message, 160),
	}
}
