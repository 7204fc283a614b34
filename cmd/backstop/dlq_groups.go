package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

func newDLQGroups(a *app, asJSON *bool) *cobra.Command {
	var f filterOptions
	cmd := &cobra.Command{
		Use:   "groups",
		Short: "Group dead letters by endpoint and cause, the largest group first",
		Long: `Groups dead letters by endpoint and by the fingerprint of what went wrong: the
reason, the HTTP status, and the error without numbers, ids and quoted text.
Decide about a whole group with --fingerprint.`,
		Example: `  backstop dlq groups --since 24h
  backstop dlq replay --app quiz --fingerprint 1b4f0e98 --dry-run
  backstop dlq replay --app quiz --fingerprint 1b4f0e98 --rate 20/s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.filter(time.Now(), nil)
			if err != nil {
				return err
			}
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				groups, err := c.ops.Group(ctx, filter)
				switch {
				case err != nil:
					return err
				case *asJSON:
					return a.printJSON(groups)
				case len(groups) == 0:
					a.notef("No dead letters.")
					return nil
				}
				return a.table(
					[]string{"COUNT", "APP", "CAPABILITY", "REASON", "STATUS", "FINGERPRINT", "LAST", "EXAMPLE", "ERROR"},
					groupRows(time.Now(), groups))
			})
		},
	}
	f.register(cmd)
	return cmd
}

func groupRows(now time.Time, groups []ops.Group) [][]string {
	rows := make([][]string, len(groups))
	for i, g := range groups {
		row := deadLetterRow(now, streams.DeadLetter{
			Event:  streams.Event{ID: g.Example, EndpointID: streams.EndpointID{Capability: g.Capability, App: g.App}},
			Reason: g.Reason, Status: g.Status, FailedAt: g.Last, Err: g.Error,
		})
		rows[i] = []string{strconv.Itoa(g.Count), row[1], row[2], row[3], row[4], g.Fingerprint, row[6], row[0], row[7]}
	}
	return rows
}
