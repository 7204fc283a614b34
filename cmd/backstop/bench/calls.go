package bench

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Repeat lets the callers do what they do over and over, each waiting for one
// to end before the next, for the given time after a warm-up of a fifth of it.
// The latencies are from beginning to end. An error ends it.
func Repeat(ctx context.Context, callers int, d time.Duration, do func(context.Context) error) (Tally, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	from := time.Now().Add(d / 5)
	until := from.Add(d)
	latencies := make([][]time.Duration, callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if began.After(until) {
					return
				}
				if err := do(ctx); err != nil {
					cancel(err)
					return
				}
				if began.After(from) {
					latencies[i] = append(latencies[i], time.Since(began))
				}
			}
		})
	}
	all.Wait()
	merged := slices.Concat(latencies...)
	slices.Sort(merged)
	return Tally{
		Count: len(merged), P50: percentile(merged, 50), P95: percentile(merged, 95), P99: percentile(merged, 99),
	}, context.Cause(ctx)
}

// BarePost returns what Repeat does for bare HTTP: one request with a kept
// connection.
func BarePost(url string, callers int) (do func(context.Context) error, closeIdle func()) {
	client := bareClient(callers)
	return func(ctx context.Context) error { return post(ctx, client, url, 0) }, client.CloseIdleConnections
}
