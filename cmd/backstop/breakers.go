package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

type breakerOptions struct {
	reason string
	by     string
	json   bool
}

func newBreakersCommand(a *app) *cobra.Command {
	var o breakerOptions
	cmd := &cobra.Command{
		Use:   "breakers",
		Short: "Circuit breakers: see, open and reset them",
		Example: `  backstop breakers list
  backstop breakers open quiz analytics --reason "maintenance at the app's"
  backstop breakers reset quiz analytics`,
	}
	addJSON(cmd.PersistentFlags(), &o.json)

	list := &cobra.Command{
		Use:     "list",
		Short:   "List the endpoints that get no traffic, or only probes",
		Example: "  backstop breakers list\n  backstop breakers list --json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.breakersList(cmd, o) },
	}
	open := &cobra.Command{
		Use:   "open APP CAPABILITY",
		Short: "Open a circuit until it is reset",
		Long: `Open the circuit of one endpoint, until "breakers reset". Its events wait in its
own lane. To turn them into dead letters instead, see "apps disable".`,
		Example: "  backstop breakers open quiz analytics --reason maintenance",
		Args:    endpointArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.breakersOpen(cmd, o, streams.EndpointID{App: args[0], Capability: args[1]})
		},
	}
	open.Flags().StringVar(&o.reason, "reason", "", "why, for whoever finds it open")
	addBy(open.Flags(), &o.by)
	reset := &cobra.Command{
		Use:     "reset APP CAPABILITY",
		Short:   "Close a circuit, whether it tripped or was opened by hand",
		Example: "  backstop breakers reset quiz analytics",
		Args:    endpointArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.breakersReset(cmd, o, streams.EndpointID{App: args[0], Capability: args[1]})
		},
	}
	addBy(reset.Flags(), &o.by)
	cmd.AddCommand(list, open, reset)
	return cmd
}

func (a *app) breakersList(cmd *cobra.Command, o breakerOptions) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		gates, err := c.ops.Gates(ctx)
		if err != nil {
			return err
		}
		if o.json {
			return a.printJSON(gates)
		}
		if len(gates) == 0 {
			a.notef("All circuits are closed: traffic flows to every endpoint.")
			return nil
		}
		return a.gateTable(gates)
	})
}

func (a *app) breakersOpen(cmd *cobra.Command, o breakerOptions, id streams.EndpointID) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		state, err := c.ops.OpenBreaker(ctx, byCommand(o.by), id, o.reason)
		if errors.As(err, new(*ops.DisabledError)) {
			return hint(err, "backstop apps enable %s %s", id.App, id.Capability)
		}
		if err != nil {
			return appError(id.App, err)
		}
		return a.printGate(o, state, "is open until it is reset; its events wait")
	})
}

func (a *app) breakersReset(cmd *cobra.Command, o breakerOptions, id streams.EndpointID) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		state, err := c.ops.ResetBreaker(ctx, byCommand(o.by), id)
		if off, is := errors.AsType[*ops.DisabledError](err); is {
			return hint(fmt.Errorf("%s is disabled, not open (%s)", id, dash(printable(off.Gate.Reason))),
				"backstop apps enable %s %s", id.App, id.Capability)
		}
		if err != nil {
			return appError(id.App, err)
		}
		if !state.Changed {
			return a.printGate(o, state, "was closed already")
		}
		return a.printGate(o, state, "is closed; what waited is delivered")
	})
}

func (a *app) printGate(o breakerOptions, state ops.GateState, is string) error {
	if o.json {
		return a.printJSON(state)
	}
	id := streams.EndpointID{App: state.App, Capability: state.Capability}
	_, err := fmt.Fprintf(a.out, "The circuit of %s %s.\n", id, is)
	return err
}
