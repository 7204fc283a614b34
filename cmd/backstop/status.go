package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

func newStatusCommand(a *app) *cobra.Command {
	var (
		interval      time.Duration
		asJSON, watch bool
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the apps do, backlog, lanes, breakers, dead letters, alerts",
		Long: `Show how the pipeline does, as NATS tells it: for each capability what waits and
how fast it is published and settled (delivered, parked in an own lane, or dead-lettered);
the own lanes of endpoints in trouble; circuits that are not closed; apps that are
unhealthy or degraded by their health checks; dead letters; how each endpoint answered
within the hour; the alerts that are raised.

With --watch, show it again and again until Ctrl-C; with --json one document a line.`,
		Example: `  backstop status
  backstop status --interval 10s
  backstop status --watch
  backstop status --json --interval 0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 0 {
				return usageErrorf("--interval %s: want 0, which measures no rates, or more", interval)
			}
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				if watch {
					return a.watchStatus(ctx, c, interval, asJSON)
				}
				s, err := c.status(ctx, interval)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(s)
				}
				return a.printStatus(s)
			})
		},
	}
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "how long to measure the rates; 0 for none")
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again and again, until Ctrl-C")
	addJSON(cmd.Flags(), &asJSON)
	return cmd
}

// status is the whole overview, also as JSON.
type status struct {
	Time         time.Time      `json:"time"`
	Capabilities []ops.Queue    `json:"capabilities"`
	Lanes        []ops.Lane     `json:"lanes"`
	Breakers     []streams.Gate `json:"breakers"`
	// UnhealthyApps are unhealthy or degraded.
	UnhealthyApps []streams.Health     `json:"unhealthyApps"`
	DeadLetters   ops.DeadLetterCounts `json:"deadLetters"`
	Endpoints     []endpointStatus     `json:"endpoints"`
	Alerts        []streams.Alert      `json:"alerts"`
}

// status asks NATS for everything, and measures rates for the interval.
func (c *client) status(ctx context.Context, interval time.Duration) (status, error) {
	s := status{Time: time.Now().UTC()}
	var err error
	if s.DeadLetters, err = c.ops.CountDeadLetters(ctx); err != nil {
		return s, err
	}
	if s.Lanes, err = c.ops.Lanes(ctx); err != nil {
		return s, err
	}
	if s.Breakers, err = c.ops.Gates(ctx); err != nil {
		return s, err
	}
	if s.UnhealthyApps, err = c.sickApps(ctx); err != nil {
		return s, err
	}
	if s.Endpoints, err = c.endpointStatus(ctx, s.Time); err != nil {
		return s, err
	}
	if s.Alerts, err = c.ops.Alerts(ctx); err != nil {
		return s, err
	}
	s.Capabilities, err = c.ops.Queues(ctx, interval)
	return s, err
}

// mostLanes is how many lanes the text shows; there may be thousands.
const mostLanes = 20

func (a *app) printStatus(s status) error {
	if len(s.Capabilities) == 0 {
		a.section("Capabilities")
		fmt.Fprintln(a.out, "None yet: a capability starts with the first manifest that declares it async (backstop apps apply).")
	} else if err := a.printCapabilities(s); err != nil {
		return err
	}
	if err := a.printLanes(s); err != nil {
		return err
	}
	a.section("Breakers")
	if len(s.Breakers) == 0 {
		fmt.Fprintln(a.out, "All closed.")
	} else if err := a.gateTable(s.Breakers); err != nil {
		return err
	}
	if err := a.printSickApps(s); err != nil {
		return err
	}
	if err := a.printDeadLetterStatus(s.DeadLetters); err != nil {
		return err
	}
	if err := a.printEndpoints(s.Endpoints); err != nil {
		return err
	}
	a.printAlerts(s)
	return nil
}

// printAlerts prints a line for each alert, and nothing when there are none.
func (a *app) printAlerts(s status) {
	if len(s.Alerts) == 0 {
		return
	}
	a.section("Alerts")
	for _, alert := range s.Alerts {
		fmt.Fprintf(a.out, "%s for %s: %s\n", alert.Rule, ago(s.Time, alert.Since), clip(alert.Message, 160))
	}
}

// section starts a part of the overview.
func (a *app) section(title string) {
	if title != "Capabilities" {
		fmt.Fprintln(a.out)
	}
	fmt.Fprintln(a.out, title)
}

func (a *app) printCapabilities(s status) error {
	a.section("Capabilities")
	rows := make([][]string, len(s.Capabilities))
	for i, p := range s.Capabilities {
		oldest := "-"
		if p.OldestAgeMs > 0 {
			oldest = short(time.Duration(p.OldestAgeMs) * time.Millisecond)
		}
		name := p.Capability
		if p.Retired {
			name += " (retired)"
		}
		rows[i] = []string{name, number(p.Backlog), strconv.Itoa(p.InFlight), oldest, perSecondText(p.PublishedPerSecond), perSecondText(p.SettledPerSecond)}
	}
	return a.table([]string{"CAPABILITY", "BACKLOG", "IN FLIGHT", "OLDEST", "PUBLISHED/S", "SETTLED/S"}, rows)
}

func (a *app) printLanes(s status) error {
	a.section("Lanes of endpoints in trouble")
	if len(s.Lanes) == 0 {
		_, err := fmt.Fprintln(a.out, "None: every endpoint takes its events.")
		return err
	}
	var rows [][]string
	for _, l := range s.Lanes[:min(len(s.Lanes), mostLanes)] {
		rows = append(rows, []string{l.App, l.Capability, number(l.Backlog), strconv.Itoa(l.Waiting), s.paused(l)})
	}
	if err := a.table([]string{"APP", "CAPABILITY", "BACKLOG", "WAITING", "PAUSED"}, rows); err != nil {
		return err
	}
	if more := len(s.Lanes) - mostLanes; more > 0 {
		fmt.Fprintf(a.out, "… and %d more with less backlog (--json has all)\n", more)
	}
	return nil
}

// paused says for how long a lane is paused. The pause of a circuit that was
// opened by hand has a far-off end on the consumer, which tells nobody anything.
func (s status) paused(l ops.Lane) string {
	forced := slices.ContainsFunc(s.Breakers, func(g streams.Gate) bool {
		return g.App == l.App && g.Capability == l.Capability && g.State == streams.GateForced
	})
	switch {
	case l.PausedUntil.IsZero():
		return "-"
	case forced:
		return "until reset"
	default:
		return "for " + short(l.PausedUntil.Sub(s.Time))
	}
}

func (a *app) printDeadLetterStatus(d ops.DeadLetterCounts) error {
	a.section("Dead letters")
	if d.Total == 0 {
		_, err := fmt.Fprintln(a.out, "None.")
		return err
	}
	rows := make([][]string, 0, len(d.Endpoints)+1)
	for _, e := range d.Endpoints {
		rows = append(rows, []string{dash(printable(e.App)), printable(e.Capability), number(e.Count)})
	}
	if err := a.table([]string{"APP", "CAPABILITY", "COUNT"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%d in all", d.Total)
	for i, r := range d.Reasons {
		separator := ", "
		if i == 0 {
			separator = ": "
		}
		fmt.Fprintf(a.out, "%s%d %s", separator, r.Count, r.Reason)
	}
	_, err := fmt.Fprintln(a.out, " (backstop dlq list)")
	return err
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func perSecondText(rate *float64) string {
	if rate == nil {
		return "-"
	}
	return strconv.FormatFloat(*rate, 'f', 1, 64)
}
