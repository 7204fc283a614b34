package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// decision is what replay and discard have in common: they select dead
// letters, ask, and then do one thing to each.
type decision struct {
	ops.Decision
	// askFrom is from how many dead letters on it asks for a yes.
	askFrom int
	filter  filterOptions
	all     bool
	dryRun  bool
	force   bool
	rate    string
	by, why string
}

func newDLQReplay(a *app, asJSON *bool) *cobra.Command {
	d := &decision{Decision: ops.Replay(), askFrom: 2, by: operator()}
	cmd := &cobra.Command{
		Use:   "replay {ID… | FILTER… | --all}",
		Short: "Publish dead letters again, with the same X-Request-ID",
		Long: `Publish the events of dead letters again, oldest first, and remove the dead
letters. The app sees the same X-Request-ID; the attempts are counted anew.
Replaying a dead letter twice by accident makes one delivery.`,
		Example: `  backstop dlq replay 7PZ3Q0KX
  backstop dlq replay --app quiz --since 2h --dry-run
  backstop dlq replay --app quiz --since 2h --rate 50/s --force`,
	}
	a.decisionCommand(cmd, d, asJSON)
	return cmd
}

func newDLQDiscard(a *app, asJSON *bool) *cobra.Command {
	d := &decision{Decision: ops.Discard(), askFrom: 1}
	cmd := &cobra.Command{
		Use:   "discard {ID… | FILTER… | --all}",
		Short: "Remove dead letters for good, on the record",
		Long: `Remove dead letters for good. A notice records each of them, with who decided
it and why.`,
		Example: `  backstop dlq discard 7PZ3Q0KX --why "test data"
  backstop dlq discard --reason bad_payload --dry-run
  backstop dlq discard --reason bad_payload --by ann --force`,
	}
	addBy(cmd.Flags(), &d.by)
	cmd.Flags().StringVar(&d.why, "why", "", "why, for the record")
	a.decisionCommand(cmd, d, asJSON)
	return cmd
}

// decisionCommand gives cmd the flags and the run of a decision.
func (a *app) decisionCommand(cmd *cobra.Command, d *decision, asJSON *bool) {
	d.filter.register(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&d.all, "all", false, "all dead letters, without a filter")
	flags.BoolVar(&d.dryRun, "dry-run", false, "only list what would be "+d.Past)
	flags.BoolVar(&d.force, "force", false, "don't ask")
	flags.StringVar(&d.rate, "rate", "", "at most so many a second, such as 50/s")
	cmd.Args = func(_ *cobra.Command, ids []string) error {
		switch given := len(ids) > 0 || !d.filter.None(); {
		case !given && !d.all:
			return errors.New("which dead letters? Give their IDs, a filter, or --all")
		case given && d.all:
			return errors.New("--all excludes IDs and filters")
		default:
			return nil
		}
	}
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		filter, err := d.filter.filter(time.Now(), ids)
		if err != nil {
			return err
		}
		perSecond, err := perSecond(d.rate)
		if err != nil {
			return err
		}
		return a.withClient(cmd, func(ctx context.Context, c *client) error {
			return a.decide(ctx, c, d, filter, perSecond, *asJSON)
		})
	}
}

// decided is the outcome of a decision, as it is printed.
type decided struct {
	ops.Decided
	// DeadLetters is what a dry run would have decided about.
	DeadLetters []ops.DeadLetter `json:"deadLetters,omitempty"`
}

func (a *app) decide(ctx context.Context, c *client, d *decision, filter streams.Filter, perSecond float64, asJSON bool) error {
	if d.dryRun {
		return a.dryRun(ctx, c, d, filter, perSecond, asJSON)
	}
	selected, err := c.ops.Select(ctx, filter)
	if err != nil {
		return err
	}
	if missing := strings.Join(selected.Missing, ", "); missing != "" {
		text := fmt.Sprintf("no dead letter of event %s; it may have been replayed or discarded already", missing)
		if len(selected.Sequences) == 0 {
			return hint(errors.New(text), "backstop dlq list")
		}
		a.warnf("%s", text)
	}
	if len(selected.Sequences) >= d.askFrom && !d.force {
		if err := a.confirm(fmt.Sprintf("Really %s %s?", d.Verb, plural(len(selected.Sequences), "dead letter"))); err != nil {
			return err
		}
	}
	result, err := c.ops.Decide(ctx, byCommand(d.by), d.Decision, selected, ops.Options{
		Why: d.why, PerSecond: perSecond,
		Progress: func(now ops.Decided) { a.notef("%s %d of %d", d.Past, now.Done, now.Matched) },
	})
	if printErr := a.printDecided(d, result, asJSON); err == nil {
		err = printErr
	}
	return decisionError(err)
}

// decisionError says of a run that stopped how to go on.
func decisionError(err error) error {
	stopped, is := errors.AsType[*ops.StoppedError](err)
	if !is {
		return err
	}
	cause := stopped.Err
	if errors.Is(cause, context.Canceled) {
		cause = errInterrupted
	}
	return fmt.Errorf("stopped early, with %s not %s; the same command goes on: %w",
		plural(stopped.Decided.Left(), "dead letter"), stopped.Decision.Past, cause)
}

func (a *app) dryRun(ctx context.Context, c *client, d *decision, filter streams.Filter, perSecond float64, asJSON bool) error {
	now := time.Now()
	result := decided{Decided: ops.Decided{DryRun: true}, DeadLetters: []ops.DeadLetter{}}
	filter.WithoutPayload = true
	var rows [][]string
	for letter, err := range c.ops.DeadLetters().Select(ctx, filter) {
		if err != nil {
			return err
		}
		result.Matched++
		if asJSON {
			result.DeadLetters = append(result.DeadLetters, ops.View(letter))
		} else {
			rows = append(rows, deadLetterRow(now, letter))
		}
	}
	if asJSON {
		return a.printJSON(result)
	}
	if len(rows) > 0 {
		if err := a.table(deadLetterHeadings(), rows); err != nil {
			return err
		}
	}
	a.notef("%s would be %s; nothing was done. It would take about %s.",
		plural(result.Matched, "dead letter"), d.Past, short(ops.Estimate(result.Matched, perSecond)))
	return nil
}

func (a *app) printDecided(d *decision, result ops.Decided, asJSON bool) error {
	if asJSON {
		return a.printJSON(result)
	}
	text := fmt.Sprintf("%s %s", plural(result.Done, "dead letter"), d.Past)
	if result.Skipped > 0 {
		text += fmt.Sprintf("; %d skipped, as somebody else was faster", result.Skipped)
	}
	if result.Failed > 0 {
		text += fmt.Sprintf("; %d failed", result.Failed)
	}
	_, err := fmt.Fprintln(a.out, text+".")
	return err
}
