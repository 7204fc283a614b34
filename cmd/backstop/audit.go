package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

func newAuditCommand(a *app) *cobra.Command {
	var (
		filter streams.AuditFilter
		what   string
		since  string
		limit  int
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List who changed what, newest first",
		Long: `List every change that an operator made, by a command or by the API: who, what,
when, and (with --json) what it was before and after. The record is kept for 400 days.`,
		Example: `  backstop audit
  backstop audit --app quiz --since 7d
  backstop audit --by ann --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usageErrorf("--limit %d: want 0, which is no limit, or more", limit)
			}
			filter.What = streams.AuditWhat(what)
			var err error
			if filter.Since, err = ops.PointInTime(time.Now(), since); err != nil {
				return usageErrorf("--since %w", err)
			}
			return a.withClient(cmd, func(ctx context.Context, c *client) error { return a.auditList(ctx, c, filter, limit, asJSON) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&what, "what", "", "only changes of this kind, such as app_applied")
	flags.StringVar(&filter.App, "app", "", "only this app's")
	flags.StringVar(&filter.Capability, "capability", "", "only this capability's")
	flags.StringVar(&filter.By, "by", "", "only this operator's")
	flags.StringVar(&since, "since", "", "only those since then: 24h or 7d ago, a date, or RFC 3339")
	flags.IntVar(&limit, "limit", 100, "most changes to list; 0 for all")
	addJSON(flags, &asJSON)
	return cmd
}

func (a *app) auditList(ctx context.Context, c *client, filter streams.AuditFilter, limit int, asJSON bool) error {
	now := time.Now()
	entries, rows := []streams.AuditEntry{}, [][]string{}
	more := false
	for e, err := range c.ops.Audit().Newest(ctx, filter) {
		if err != nil {
			return err
		}
		if limit > 0 && len(entries) == limit {
			more = true
			break
		}
		entries = append(entries, e)
		what := string(e.What)
		if e.Failed != "" {
			what += " FAILED"
		}
		rows = append(rows, []string{
			ago(now, e.Time), clip(e.By, 30), e.Via, what, dash(clip(e.App, 30)), dash(clip(e.Capability, 30)), dash(clip(e.ID, 30)),
			dash(clip(e.Failed+e.Why, 60)),
		})
	}
	switch {
	case asJSON:
		if err := a.printJSON(entries); err != nil {
			return err
		}
	case len(rows) == 0:
		a.notef("No changes on record.")
	default:
		if err := a.table([]string{"AGO", "BY", "VIA", "WHAT", "APP", "CAPABILITY", "ID", "WHY"}, rows); err != nil {
			return err
		}
	}
	if more {
		a.notef("There are more than %d; --limit 0 lists all of them.", limit)
	}
	return nil
}
