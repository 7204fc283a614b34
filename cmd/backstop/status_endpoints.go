package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"backstop/consumers"
	"backstop/consumers/rollup"
	"backstop/streams"
)

// endpointStatus is how an endpoint answered within the hour.
type endpointStatus struct {
	rollup.Stats
	// SuccessRate is the share that succeeded, from 0 to 1; null when nothing
	// says so.
	SuccessRate *float64 `json:"successRate"`
	AverageMs   float64  `json:"averageMs"`
}

// endpointStatus returns the endpoints that had attempts within the hour, the
// worst first.
func (c *client) endpointStatus(ctx context.Context, now time.Time) ([]endpointStatus, error) {
	kv, err := c.js.KeyValue(ctx, streams.RollupsBucket)
	if err != nil {
		return nil, err
	}
	hour := now.Add(-time.Hour)
	window, err := consumers.RecentRollups(ctx, kv, hour)
	if err != nil {
		return nil, err
	}
	all := []endpointStatus{}
	for _, stats := range window.Overview(hour).Endpoints {
		s := endpointStatus{Stats: stats, AverageMs: stats.AverageMs()}
		if rate, ok := stats.SuccessRate(); ok {
			s.SuccessRate = &rate
		}
		all = append(all, s)
	}
	slices.SortStableFunc(all, func(x, y endpointStatus) int { return cmp.Compare(x.rate(), y.rate()) })
	return all, nil
}

// rate is the success rate, and 1 when nothing is known against the endpoint.
func (s endpointStatus) rate() float64 {
	if s.SuccessRate == nil {
		return 1
	}
	return *s.SuccessRate
}

// mostEndpoints is how many endpoints the text shows; there may be thousands.
const mostEndpoints = 20

// printEndpoints prints a line for each, and nothing when there were no attempts.
func (a *app) printEndpoints(all []endpointStatus) error {
	if len(all) == 0 {
		return nil
	}
	a.section("Endpoints within the hour")
	var rows [][]string
	for _, s := range all[:min(len(all), mostEndpoints)] {
		rate := "-"
		if s.SuccessRate != nil {
			rate = percent(*s.SuccessRate)
		}
		rows = append(rows, []string{
			printable(s.App), printable(s.Capability), number(s.Attempts), rate, msText(s.AverageMs), msText(s.P50Ms), msText(s.P95Ms), msText(s.P99Ms),
		})
	}
	if err := a.table([]string{"APP", "CAPABILITY", "ATTEMPTS", "SUCCESS", "AVERAGE", "P50", "P95", "P99"}, rows); err != nil {
		return err
	}
	if more := len(all) - mostEndpoints; more > 0 {
		fmt.Fprintf(a.out, "… and %d more that do better (--json has all)\n", more)
	}
	return nil
}

// percent rounds down, so that what is not all is never told as 100%.
func percent(share float64) string {
	return strings.TrimSuffix(strconv.FormatFloat(float64(int(share*1000))/10, 'f', 1, 64), ".0") + "%"
}

func msText(ms float64) string { return strconv.FormatFloat(ms, 'f', 1, 64) + "ms" }
