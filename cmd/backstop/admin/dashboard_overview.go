package admin

import (
	"context"
	"strings"
	"time"

	"backstop/consumers/alerts"
	"backstop/consumers/rollup"
	"backstop/streams"
)

// mostShown is how many apps the page shows, the sick first. The field above
// them finds others.
const mostShown = 50

// overviewView is the first part: what an operator wants at a glance.
type overviewView struct {
	overview
	// Rows are the apps that Find matches, at most mostShown, and More is how
	// many there are beside them.
	Rows []appRow
	Find string
	More int
	// Many says that there are so many that one has to be looked for.
	Many bool
	// Sick are the apps that are not healthy.
	Sick int
	// OldestQueue is since when the oldest event waits in a shared lane.
	OldestQueue time.Time
}

// appRow is one app.
type appRow struct {
	appOverview
	Rows []endpointRow
	// Open says that its endpoints are shown without a click.
	Open bool
}

// endpointRow is one endpoint, and how its last hour was.
type endpointRow struct {
	endpointOverview
	App    string
	Hour   rates
	Series []rollup.Point
	// Oldest is since when the first event of its lane waits; zero without.
	Oldest time.Time
	// Operate says that the reader may do something about it.
	Operate bool
}

// Slow is the p95 in milliseconds above which the endpoint is slow: the share of
// the timeout that raises the alert.
func (e endpointRow) Slow() float64 { return alerts.SlowAbove * float64(e.TimeoutMs) }

// fewApps is up to how many apps all are shown open.
const fewApps = 8

func showOverview(r *request) (any, error) {
	ctx, now := r.Context(), time.Now()
	o, err := r.backend.overview(ctx, now)
	if err != nil {
		return nil, err
	}
	v := overviewView{overview: o, Find: strings.TrimSpace(r.param("find")), Many: len(o.Apps) > fewApps}
	for _, a := range o.Apps {
		if a.State != stateHealthy {
			v.Sick++
		}
		switch {
		case !a.matches(v.Find):
		case len(v.Rows) == mostShown:
			v.More++
		default:
			row, err := r.appRow(ctx, a, o.lately, now)
			if err != nil {
				return nil, err
			}
			row.Open = a.State != stateHealthy || !v.Many
			v.Rows = append(v.Rows, row)
		}
	}
	for _, q := range o.Queues {
		if at := now.Add(-time.Duration(q.OldestAgeMs) * time.Millisecond); q.OldestAgeMs > 0 && (v.OldestQueue.IsZero() || at.Before(v.OldestQueue)) {
			v.OldestQueue = at
		}
	}
	return v, nil
}

// matches tells whether the app is one that an operator looks for.
func (a appOverview) matches(find string) bool {
	find = strings.ToLower(find)
	return strings.Contains(strings.ToLower(a.App), find) || strings.Contains(strings.ToLower(a.Name), find)
}

// appRow adds what the page shows of an app's endpoints beside the overview;
// lately is how they did within the last hour.
func (r *request) appRow(ctx context.Context, a appOverview, lately rollup.Overview, now time.Time) (appRow, error) {
	b, row := r.backend, appRow{appOverview: a}
	for _, e := range a.Endpoints {
		id := streams.EndpointID{Capability: e.Capability, App: a.App}
		endpoint := endpointRow{endpointOverview: e, App: a.App, Hour: ratesOf(lately.Endpoint(id)), Operate: r.who.role >= RoleOperate}
		if b.Rollups != nil {
			var err error
			if endpoint.Series, err = b.Rollups.Series(ctx, id, now.Add(-(sparkMinutes-1)*time.Minute), now, time.Minute); err != nil {
				return row, err
			}
		}
		if e.Lane != nil && e.Lane.Backlog > 0 {
			var err error
			if endpoint.Oldest, err = b.Ops.OldestInLane(ctx, id); err != nil {
				return row, err
			}
		}
		row.Rows = append(row.Rows, endpoint)
	}
	return row, nil
}
