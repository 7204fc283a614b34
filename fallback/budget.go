package fallback

import (
	"context"
	"time"

	"backstop/dispatcher"
	"backstop/streams/manifest"
)

const (
	// maxReserve is the most of a call's time, in percent, that is kept from
	// the app for the strategies.
	maxReserve = 30
	// maxSlack is how long before the deadline the stage returns, so that a
	// goroutine that is woken late is still in time. A short call has less.
	maxSlack = 10 * time.Millisecond
)

// budget is how the time of one call is spent.
type budget struct {
	app time.Time // what the app is told
	cut time.Time // when an app's handler that doesn't keep to it is left behind
	end time.Time // when the stage returns at the latest
}

// divide divides the time of a call, which begins now.
func divide(ctx context.Context, c dispatcher.Call, now time.Time) budget {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = now.Add(c.Endpoint.Timeout)
	}
	whole := max(deadline.Sub(now), 0)
	slack := min(whole/50, maxSlack)
	end := deadline.Add(-slack)
	reserve := min(needs(c.Endpoint.Fallback, len(c.Event.Payload)), whole*maxReserve/100)
	app := end.Add(-reserve)
	grace := slack / 2 // for the app's handler to say in its own words that time is up
	if reserve > 0 {
		grace = min(grace, reserve/2)
	}
	return budget{app: app, cut: app.Add(grace), end: end}
}

// needs is what a list of strategies needs, one after the other.
func needs(list []manifest.Strategy, payload int) (sum time.Duration) {
	for _, s := range list {
		sum += need(s, payload)
	}
	return sum
}

// need is how long a strategy takes when all is well but busy, for a payload
// of so many bytes. Where the payload has to be read, that is a millisecond
// for each KiB, ten times what it takes on an idle machine.
func need(s manifest.Strategy, payload int) time.Duration {
	reading := time.Duration(payload) * time.Millisecond / 1024
	switch s.Strategy {
	case manifest.StrategyCached: // one read from the broker
		return 50*time.Millisecond + reading
	case manifest.StrategyQueue, manifest.StrategyPending: // stored and synced, on three servers
		return 150 * time.Millisecond
	}
	switch s.Handler {
	case manifest.HandlerService: // there and back, and somebody's work
		return 250 * time.Millisecond
	case manifest.HandlerRandomSelection:
		return 20*time.Millisecond + reading
	default:
		return time.Millisecond
	}
}

// share is what the first of the strategies in list has of the time that is
// left: in proportion to what each needs, so that the others have theirs.
func share(left time.Duration, list []manifest.Strategy, payload int) time.Duration {
	all := needs(list, payload)
	return time.Duration(float64(left) * float64(need(list[0], payload)) / float64(all))
}
