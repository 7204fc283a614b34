package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

func newDLQCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Dead letters: list, group, show, replay and discard them",
		Long: `Dead letters are events that will not be tried again until somebody decides.
Nothing removes them but replay and discard.`,
		Example: `  backstop dlq list --app quiz
  backstop dlq show 7PZ3Q0KX
  backstop dlq replay --app quiz --since 2h --rate 50/s
  backstop dlq discard --reason bad_payload`,
	}
	addJSON(cmd.PersistentFlags(), &asJSON)
	cmd.AddCommand(newDLQList(a, &asJSON), newDLQGroups(a, &asJSON), newDLQShow(a, &asJSON), newDLQReplay(a, &asJSON), newDLQDiscard(a, &asJSON))
	return cmd
}

func deadLetterRow(now time.Time, d streams.DeadLetter) []string {
	status := ""
	if d.Status != 0 {
		status = strconv.Itoa(d.Status)
	}
	return []string{
		d.ID, dash(printable(d.App)), printable(d.Capability), string(d.Reason), dash(status),
		strconv.Itoa(d.Attempts), ago(now, d.FailedAt), dash(clip(d.Err, 60)),
	}
}

func deadLetterHeadings() []string {
	return []string{"ID", "APP", "CAPABILITY", "REASON", "STATUS", "ATTEMPTS", "AGE", "ERROR"}
}

func newDLQList(a *app, asJSON *bool) *cobra.Command {
	var (
		f     filterOptions
		limit int
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, oldest first",
		Example: `  backstop dlq list
  backstop dlq list --app quiz --reason exhausted --since 24h
  backstop dlq list --limit 0 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usageErrorf("--limit %d: want 0, which is no limit, or more", limit)
			}
			filter, err := f.filter(time.Now(), nil)
			if err != nil {
				return err
			}
			return a.dlqList(cmd, filter, limit, *asJSON)
		},
	}
	f.register(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "most dead letters to list; 0 for all")
	return cmd
}

func (a *app) dlqList(cmd *cobra.Command, filter streams.Filter, limit int, asJSON bool) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		now := time.Now()
		views, rows := []ops.DeadLetter{}, [][]string{}
		more := false
		for d, err := range c.ops.DeadLetters().Select(ctx, filter) {
			if err != nil {
				return err
			}
			if limit > 0 && len(views) == limit {
				more = true
				break
			}
			views = append(views, ops.View(d))
			rows = append(rows, deadLetterRow(now, d))
		}
		switch {
		case asJSON:
			if err := a.printJSON(views); err != nil {
				return err
			}
		case len(rows) == 0:
			a.notef("No dead letters.")
		default:
			if err := a.table(deadLetterHeadings(), rows); err != nil {
				return err
			}
		}
		if more {
			a.notef("There are more than %d; --limit 0 lists all of them.", limit)
		}
		return nil
	})
}

func newDLQShow(a *app, asJSON *bool) *cobra.Command {
	var (
		f           filterOptions
		payloadOnly bool
	)
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a dead letter: why, and its payload byte for byte",
		Example: `  backstop dlq show 7PZ3Q0KX
  backstop dlq show 7PZ3Q0KX --payload > event.json
  backstop dlq show 7PZ3Q0KX --app quiz --capability analytics`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			filter, err := f.filter(time.Now(), args)
			if err != nil {
				return err
			}
			if payloadOnly && *asJSON {
				return usageErrorf("--payload and --json exclude each other")
			}
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				d, err := c.oneDeadLetter(ctx, filter, args[0])
				if err != nil {
					return err
				}
				switch {
				case payloadOnly:
					_, err = a.out.Write(d.Payload)
				case *asJSON:
					err = a.printJSON(ops.ViewWithPayload(d))
				default:
					err = a.printDeadLetter(d)
				}
				return err
			})
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&payloadOnly, "payload", false, "print the payload alone, byte for byte")
	return cmd
}

// oneDeadLetter returns the only dead letter with an id that the filter
// matches. A broadcast may have one at each app.
func (c *client) oneDeadLetter(ctx context.Context, filter streams.Filter, id string) (streams.DeadLetter, error) {
	var (
		found streams.DeadLetter
		n     int
	)
	for d, err := range c.ops.DeadLetters().Select(ctx, filter) {
		if err != nil {
			return streams.DeadLetter{}, err
		}
		found, n = d, n+1
	}
	switch n {
	case 0:
		return found, hint(fmt.Errorf("there is no dead letter of event %s", id), "backstop dlq list")
	case 1:
		return found, nil
	default:
		return found, hint(fmt.Errorf("event %s has %d dead letters", id, n), "backstop dlq list, and narrow it down with --app, --capability, --since or --until")
	}
}

func (a *app) printDeadLetter(d streams.DeadLetter) error {
	status := "-"
	if d.Status != 0 {
		status = strconv.Itoa(d.Status)
	}
	app := printable(d.App)
	if d.App == "" {
		app = "- (a broadcast that no app takes)"
	}
	_, err := fmt.Fprintf(a.out, `Event:      %s
App:        %s
Capability: %s
Reason:     %s
Error:      %s
Status:     %s
Attempts:   %d
Published:  %s
Failed:     %s
Sequence:   %d
Payload:    %d bytes

`, printable(d.ID), app, printable(d.Capability), d.Reason, dash(printable(d.Err)), status, d.Attempts,
		stamp(d.PublishedAt), stamp(d.FailedAt), d.Sequence, len(d.Payload))
	if err != nil {
		return err
	}
	if _, err := a.out.Write(d.Payload); err != nil {
		return err
	}
	// The prompt of a terminal belongs on a line of its own; a file gets the
	// bytes and no more.
	if isTerminal(a.out) {
		fmt.Fprintln(a.out)
	}
	return nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339Nano)
}
