package main

import (
	"context"
	"fmt"

	"backstop/cmd/backstop/bench"
)

// logRounds is how often deliveryLog measures with and without: a machine that
// does other things as well is not the same for two measurements.
const logRounds = 4

// deliveryLog measures what keeping the delivery log costs, and adding it up:
// throughput with it, as a share of the throughput without, in turns.
func (r *benchRun) deliveryLog(ctx context.Context) error {
	for round := range logRounds {
		var without float64
		for _, off := range []bool{true, false} {
			err := r.within(ctx, "1s", func(ctx context.Context, t bench.Target) error {
				to, err := r.spread(ctx, t, "app", r.receiver.OK(), 8, 8)
				if err != nil {
					return err
				}
				rate, err := bench.Throughput(ctx, t, r.receiver, to, bench.Load{}, r.span)
				row := benchRow{Scenario: "log", What: fmt.Sprintf("round %d, with the delivery log", round+1), Rate: &rate}
				if off {
					row.What, without = fmt.Sprintf("round %d, without", round+1), rate.PerSecond
				} else {
					row.Ratio = rate.PerSecond / without
				}
				r.add(row)
				return err
			}, func(cfg *Config) { cfg.withoutAttempts = off })
			if err != nil {
				return err
			}
		}
	}
	return nil
}
