package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// attemptOptions are the flags of `attempts`.
type attemptOptions struct {
	app, capability, id, outcome, since, until string

	limit  int
	oldest bool
	follow bool
	json   bool
}

func newAttemptsCommand(a *app) *cobra.Command {
	var o attemptOptions
	cmd := &cobra.Command{
		Use:   "attempts",
		Short: "Search the delivery log: every attempt at every webhook",
		Long: `Search the delivery log, which has every attempt at every webhook of the last 24
hours, as far as its stream has room. The newest comes first. With --app and
--capability the log is read no further than it has to be; a search for --id
alone reads up to 100,000 of the newest entries.`,
		Example: `  backstop attempts --app quiz
  backstop attempts --app quiz --capability analytics --outcome failed --since 2h
  backstop attempts --id order-17 --json
  backstop attempts --follow --outcome timeout`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query, err := o.query(time.Now())
			if err != nil {
				return err
			}
			if o.follow {
				return a.attemptsFollow(cmd, query.AttemptFilter, o.json)
			}
			return a.attemptsList(cmd, query, o.json)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.app, "app", "", "only this app's")
	flags.StringVar(&o.capability, "capability", "", "only this capability's")
	flags.StringVar(&o.id, "id", "", "only those of the event or call with this id (X-Request-ID)")
	flags.StringVar(&o.outcome, "outcome", "", "only those with this outcome: "+strings.Join(outcomes(), ", "))
	flags.StringVar(&o.since, "since", "", "only those that began since then: 24h or 7d ago, a date, or RFC 3339")
	flags.StringVar(&o.until, "until", "", "only those that began until then, as --since")
	flags.IntVar(&o.limit, "limit", 100, "most attempts to list")
	flags.BoolVar(&o.oldest, "oldest-first", false, "begin with the oldest")
	flags.BoolVar(&o.follow, "follow", false, "print attempts as they are made, until Ctrl-C; with --json one a line")
	addJSON(flags, &o.json)
	// The only error is a flag that doesn't exist.
	_ = cmd.RegisterFlagCompletionFunc("outcome", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return outcomes(), cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// outcomes are what --outcome takes: success and failure, the verdicts, and the
// reasons for not being delivered.
func outcomes() []string {
	return []string{
		streams.OutcomeSuccess, streams.OutcomeFailed, "delivered", "retry", "rejected", "refused",
		"timeout", "connection", "bad_response", "status", "circuit_open", "saturated", "rate_limited",
		"disabled", "blocked_address", "local",
	}
}

// query returns what the flags ask for.
func (o *attemptOptions) query(now time.Time) (streams.AttemptQuery, error) {
	q := streams.AttemptQuery{Limit: o.limit, OldestFirst: o.oldest}
	// The same names and times as for dead letters, but for a word of advice.
	f := filterOptions{ops.Criteria{App: o.app, Capability: o.capability, Since: o.since, Until: o.until}}
	filter, err := f.filter(now, nil)
	if err != nil {
		return q, err
	}
	switch {
	case o.limit < 1 || o.limit > 10_000:
		return q, usageErrorf("--limit %d: want 1 to 10000", o.limit)
	case o.outcome != "" && !slices.Contains(outcomes(), o.outcome):
		return q, usageErrorf("--outcome %q: want one of %s", o.outcome, strings.Join(outcomes(), ", "))
	case o.follow && (o.oldest || o.since != "" || o.until != ""):
		return q, usageErrorf("--follow prints what happens from now on; --since, --until and --oldest-first go without it")
	}
	q.AttemptFilter = streams.AttemptFilter{
		App: o.app, Capability: o.capability, ID: o.id, Outcome: o.outcome, Since: filter.Since, Until: filter.Until,
	}
	return q, nil
}

func (a *app) attemptsList(cmd *cobra.Command, query streams.AttemptQuery, asJSON bool) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		page, err := streams.NewAttemptLog(c.js).Search(ctx, query)
		if err != nil {
			return err
		}
		switch {
		case asJSON:
			if err := a.printJSON(append([]streams.Attempt{}, page.Attempts...)); err != nil {
				return err
			}
		case len(page.Attempts) == 0:
			a.notef("No attempts.")
		default:
			rows := make([][]string, len(page.Attempts))
			for i, at := range page.Attempts {
				rows[i] = attemptRow(at)
			}
			if err := a.table(attemptHeadings(), rows); err != nil {
				return err
			}
		}
		switch {
		case page.Partial:
			a.notef("Only %d entries were read; narrow it down with --app, --capability, --since or --until.", page.Read)
		case page.Next > 0:
			a.notef("There are more; raise --limit, or narrow it down.")
		}
		return nil
	})
}

func (a *app) attemptsFollow(cmd *cobra.Command, filter streams.AttemptFilter, asJSON bool) error {
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		return streams.NewAttemptLog(c.js).Follow(ctx, filter, func(at streams.Attempt) error {
			return a.line(asJSON, at, attemptRow(at))
		})
	})
}

func attemptHeadings() []string {
	return []string{"TIME", "ID", "APP", "CAPABILITY", "ATTEMPT", "VERDICT", "STATUS", "MS", "REASON", "ERROR"}
}

func attemptRow(at streams.Attempt) []string {
	status := ""
	if at.Status != 0 {
		status = strconv.Itoa(at.Status)
	}
	why := at.Error
	if at.Answer != "" {
		why += ": " + at.Answer
	}
	return []string{
		at.Time.UTC().Format("2006-01-02T15:04:05.000Z"), clip(at.ID, 64), printable(at.App), printable(at.Capability), strconv.Itoa(at.Attempt),
		printable(at.Verdict), dash(status), strconv.FormatFloat(at.DurationMs, 'f', 1, 64), dash(printable(at.Reason)), dash(clip(why, 80)),
	}
}
