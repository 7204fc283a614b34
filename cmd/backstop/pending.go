package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"backstop/streams"
)

type pendingOptions struct {
	all  bool
	by   string
	why  string
	json bool
}

func newPendingCommand(a *app) *cobra.Command {
	var o pendingOptions
	cmd := &cobra.Command{
		Use:   "pending",
		Short: "Calls that wait for a person: list, show, approve and reject them",
		Long: `A call whose app could not answer, and whose fallback is "pending", waits here
for as long as it takes. The decision goes to results.<capability>.<app>; an
approved call is also sent to the app, as an event, once it works again.`,
		Example: `  backstop pending list
  backstop pending show reg-4711
  backstop pending approve reg-4711
  backstop pending reject reg-4711 --why "registration is closed"`,
	}
	addJSON(cmd.PersistentFlags(), &o.json)
	list := &cobra.Command{
		Use:     "list",
		Short:   "List what waits, oldest first",
		Example: "  backstop pending list\n  backstop pending list --all --json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.pendingList(cmd, o) },
	}
	list.Flags().BoolVar(&o.all, "all", false, "also what was decided within the last 7 days")
	show := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one, with its payload",
		Example: "  backstop pending show reg-4711",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.pendingShow(cmd, o, args[0]) },
	}
	cmd.AddCommand(list, show, newDecision(a, &o, "approve", true), newDecision(a, &o, "reject", false))
	return cmd
}

func newDecision(a *app, o *pendingOptions, verb string, approve bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:     verb + " ID",
		Short:   map[bool]string{true: "Approve one; the app gets it as an event", false: "Reject one"}[approve],
		Example: "  backstop pending " + verb + " reg-4711 --by ann --why …",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.pendingDecide(cmd, *o, args[0], approve) },
	}
	addBy(cmd.Flags(), &o.by)
	cmd.Flags().StringVar(&o.why, "why", "", "why, for the record")
	return cmd
}

func (a *app) pendingList(cmd *cobra.Command, o pendingOptions) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		all, err := c.ops.Pending(ctx)
		if err != nil {
			return err
		}
		shown, rows, now := []streams.PendingRequest{}, [][]string{}, time.Now()
		for _, r := range all {
			if r.State == streams.PendingWaiting || o.all {
				shown = append(shown, r)
				rows = append(rows, []string{
					r.ID, r.App, r.Capability, string(r.State), ago(now, r.CreatedAt), dash(r.Reason), dash(clip(r.DecidedBy, 30)), clip(string(r.Payload), 60),
				})
			}
		}
		switch {
		case o.json:
			return a.printJSON(shown)
		case len(rows) == 0:
			a.notef("Nothing waits for a person.")
			return nil
		}
		return a.table([]string{"ID", "APP", "CAPABILITY", "STATE", "AGE", "REASON", "DECIDED BY", "PAYLOAD"}, rows)
	})
}

func (a *app) pendingShow(cmd *cobra.Command, o pendingOptions, id string) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		r, err := c.ops.PendingCall(ctx, id)
		switch {
		case err != nil:
			return explainPending(err)
		case o.json:
			return a.printJSON(r)
		}
		_, err = fmt.Fprintf(a.out, `Call:       %s
App:        %s
Capability: %s
State:      %s
Reason:     %s
Created:    %s
Decided by: %s
Decided:    %s
Why:        %s

%s
`, r.ID, r.App, r.Capability, r.State, dash(r.Reason), stamp(r.CreatedAt),
			dash(printable(r.DecidedBy)), stamp(r.DecidedAt), dash(printable(r.Why)), r.Payload)
		return err
	})
}

func (a *app) pendingDecide(cmd *cobra.Command, o pendingOptions, id string, approve bool) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		r, err := c.ops.DecidePending(ctx, byCommand(o.by), id, approve, o.why)
		switch {
		case err != nil:
			return explainPending(err)
		case o.json:
			return a.printJSON(r)
		case approve:
			_, err = fmt.Fprintf(a.out, "Approved %s; %s gets it as an event.\n", r.ID, r.App)
		default:
			_, err = fmt.Fprintf(a.out, "Rejected %s.\n", r.ID)
		}
		return err
	})
}

// explainPending adds what to do to an error about a pending call.
func explainPending(err error) error {
	switch {
	case errors.Is(err, streams.ErrNoPending):
		return hint(err, "backstop pending list")
	case errors.Is(err, streams.ErrAmbiguous):
		return hint(err, "the same with one of those in the place of the id")
	}
	return err
}
