package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// switchArgs are the arguments APP [CAPABILITY].
func switchArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.RangeArgs(1, 2)(cmd, args); err != nil {
		return err
	}
	if len(args) == 2 {
		return endpointArgs(cmd, args)
	}
	return streams.CheckName("app", args[0])
}

func newAppsDisable(a *app, asJSON *bool) *cobra.Command {
	var reason, by string
	cmd := &cobra.Command{
		Use:   "disable APP [CAPABILITY]",
		Short: "Send an app nothing more; its events become dead letters",
		Long: `Send an app nothing more, or nothing of one capability, until "apps enable". Its
events become dead letters (endpoint_disabled), which can be replayed later. To let
them wait instead, see "breakers open".`,
		Example: `  backstop apps disable quiz --reason "contract ended"
  backstop apps disable quiz analytics`,
		Args: switchArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				return a.disable(ctx, c, args, reason, by, *asJSON)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever finds it disabled")
	addBy(cmd.Flags(), &by)
	return cmd
}

func newAppsEnable(a *app, asJSON *bool) *cobra.Command {
	var by string
	cmd := &cobra.Command{
		Use:     "enable APP [CAPABILITY]",
		Short:   "Send an app webhooks again that was disabled, by hand or by its 410",
		Example: "  backstop apps enable quiz\n  backstop apps enable quiz analytics",
		Args:    switchArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				return a.enable(ctx, c, args, by, *asJSON)
			})
		},
	}
	addBy(cmd.Flags(), &by)
	return cmd
}

// switched is the endpoint that the arguments name; without a capability, all
// of the app's.
func switched(args []string) streams.EndpointID {
	id := streams.EndpointID{App: args[0]}
	if len(args) == 2 {
		id.Capability = args[1]
	}
	return id
}

func (a *app) disable(ctx context.Context, c *client, args []string, reason, by string, asJSON bool) error {
	changes, err := c.ops.Disable(ctx, byCommand(by), switched(args), reason)
	if err != nil {
		return appError(args[0], err)
	}
	return a.printSwitched(changes, "disabled", asJSON)
}

func (a *app) enable(ctx context.Context, c *client, args []string, by string, asJSON bool) error {
	changes, err := c.ops.Enable(ctx, byCommand(by), switched(args))
	if err != nil {
		return appError(args[0], err)
	}
	return a.printSwitched(changes, "enabled", asJSON)
}

func (a *app) printSwitched(changes []ops.GateState, state string, asJSON bool) error {
	if asJSON {
		return a.printJSON(changes)
	}
	for _, s := range changes {
		before := ""
		if !s.Changed {
			before = " already"
		}
		id := streams.EndpointID{App: s.App, Capability: s.Capability}
		if _, err := fmt.Fprintf(a.out, "%s is %s%s.\n", id, state, before); err != nil {
			return err
		}
	}
	return nil
}
