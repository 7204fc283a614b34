package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

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
		gates, err := c.listGates(ctx)
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
		if err := c.checkDeclared(ctx, id); err != nil {
			return err
		}
		gates, err := c.gates(ctx)
		if err != nil {
			return err
		}
		gate := streams.Gate{
			Capability: id.Capability, App: id.App, State: streams.GateForced,
			Since: time.Now().UTC(), Reason: o.reason, By: o.by,
		}
		written, err := gates.SetUnless(ctx, gate, disabled)
		if err != nil {
			return err
		}
		if !written {
			return hint(fmt.Errorf("%s is disabled, which is more than open", id), "backstop apps enable %s %s", id.App, id.Capability)
		}
		a.announce(ctx, c, streams.NoticeBreakerOpened, id, o.by, "opened the circuit of", o.reason)
		return a.printGate(o, id, gateState{State: string(streams.GateForced), Changed: true}, "is open until it is reset; its events wait")
	})
}

func (a *app) breakersReset(cmd *cobra.Command, o breakerOptions, id streams.EndpointID) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		gates, err := c.gates(ctx)
		if err != nil {
			return err
		}
		cleared, err := gates.ClearIf(ctx, id, func(g streams.Gate) bool { return !disabled(g) })
		if err != nil {
			return err
		}
		if !cleared {
			return a.nothingToReset(ctx, c, gates, id, o)
		}
		a.announce(ctx, c, streams.NoticeBreakerClosed, id, o.by, "reset the circuit of", "")
		return a.printGate(o, id, gateState{State: stateClosed, Changed: true}, "is closed; what waited is delivered")
	})
}

// nothingToReset tells a circuit that was closed all the time from a name that
// is wrong and from an endpoint that is disabled.
func (a *app) nothingToReset(ctx context.Context, c *client, gates *streams.Gates, id streams.EndpointID, o breakerOptions) error {
	gate, found, err := gates.Get(ctx, id)
	switch {
	case err != nil:
		return err
	case found && disabled(gate):
		return hint(fmt.Errorf("%s is disabled, not open (%s)", id, dash(printable(gate.Reason))),
			"backstop apps enable %s %s", id.App, id.Capability)
	}
	if err := c.checkDeclared(ctx, id); err != nil {
		return err
	}
	return a.printGate(o, id, gateState{State: stateClosed}, "was closed already")
}

func (a *app) printGate(o breakerOptions, id streams.EndpointID, state gateState, is string) error {
	if o.json {
		state.App, state.Capability = id.App, id.Capability
		return a.printJSON(state)
	}
	_, err := fmt.Fprintf(a.out, "The circuit of %s %s.\n", id, is)
	return err
}
