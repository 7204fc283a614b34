package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

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

// declaredEndpoints returns the endpoint that the arguments name, or all of
// the app's.
func (c *client) declaredEndpoints(ctx context.Context, args []string) ([]streams.EndpointID, error) {
	if len(args) == 2 {
		id := streams.EndpointID{App: args[0], Capability: args[1]}
		return []streams.EndpointID{id}, c.checkDeclared(ctx, id)
	}
	m, err := c.manifest(ctx, args[0])
	if err != nil {
		return nil, err
	}
	events, calls := capabilities(m)
	ids := make([]streams.EndpointID, 0, len(m.Webhooks))
	for _, capability := range append(events, calls...) {
		ids = append(ids, m.EndpointID(capability))
	}
	slices.SortFunc(ids, func(x, y streams.EndpointID) int { return strings.Compare(x.Capability, y.Capability) })
	return ids, nil
}

func (a *app) disable(ctx context.Context, c *client, args []string, reason, by string, asJSON bool) error {
	ids, err := c.declaredEndpoints(ctx, args)
	if err != nil {
		return err
	}
	gates, err := c.gates(ctx)
	if err != nil {
		return err
	}
	var changes []gateState
	for _, id := range ids {
		// An endpoint that is disabled keeps who did it and why.
		written, err := gates.SetUnless(ctx, streams.Gate{
			Capability: id.Capability, App: id.App, State: streams.GateDisabled, Since: time.Now().UTC(), Reason: reason, By: by,
		}, disabled)
		if err != nil {
			return err
		}
		if written {
			a.announce(ctx, c, streams.NoticeEndpointDisabled, id, by, "disabled", reason)
		}
		changes = append(changes, gateState{App: id.App, Capability: id.Capability, State: string(streams.GateDisabled), Changed: written})
	}
	return a.printSwitched(changes, "disabled", asJSON)
}

func (a *app) enable(ctx context.Context, c *client, args []string, by string, asJSON bool) error {
	ids, err := c.declaredEndpoints(ctx, args)
	if err != nil {
		return err
	}
	gates, err := c.gates(ctx)
	if err != nil {
		return err
	}
	var changes []gateState
	for _, id := range ids {
		// An open circuit is another matter, and stays.
		cleared, err := gates.ClearIf(ctx, id, disabled)
		if err != nil {
			return err
		}
		if cleared {
			a.announce(ctx, c, streams.NoticeEndpointEnabled, id, by, "enabled", "")
		}
		changes = append(changes, gateState{App: id.App, Capability: id.Capability, State: "enabled", Changed: cleared})
	}
	return a.printSwitched(changes, "enabled", asJSON)
}

func (a *app) printSwitched(changes []gateState, state string, asJSON bool) error {
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
