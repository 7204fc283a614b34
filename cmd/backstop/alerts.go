package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"backstop/streams"
)

func newAlertsCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "alerts",
		Short: "Show what is the matter: the alerts that are raised",
		Long: `Show the alerts that are raised, the longest first. The pipeline raises and
clears them by itself; what each means and when is in docs/operations.md.
`,
		Example: "  backstop alerts\n  backstop alerts --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				alerts, err := c.ops.Alerts(ctx)
				switch {
				case err != nil:
					return err
				case asJSON:
					return a.printJSON(alerts)
				case len(alerts) == 0:
					a.notef("No alerts.")
					return nil
				}
				return a.alertTable(alerts)
			})
		},
	}
	addJSON(cmd.Flags(), &asJSON)
	return cmd
}

func (a *app) alertTable(alerts []streams.Alert) error {
	now := time.Now()
	rows := make([][]string, len(alerts))
	for i, at := range alerts {
		rows[i] = []string{string(at.Rule), dash(printable(at.App)), dash(printable(at.Capability)), ago(now, at.Since), clip(at.Message, 140)}
	}
	return a.table([]string{"ALERT", "APP", "CAPABILITY", "FOR", "WHAT"}, rows)
}
