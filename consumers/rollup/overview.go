package rollup

import (
	"cmp"
	"slices"
	"time"

	"backstop/streams"
)

// Stats is what came of the attempts at an endpoint, an app, or all, and how
// long they took.
type Stats struct {
	// App and Capability say whose; empty for more than one.
	App        string `json:"app,omitempty"`
	Capability string `json:"capability,omitempty"`
	Counts
	// The percentiles are of attempts that made a request, in milliseconds;
	// 0 when there were none.
	P50Ms float64 `json:"p50Ms"`
	P95Ms float64 `json:"p95Ms"`
	P99Ms float64 `json:"p99Ms"`
}

// ID returns the endpoint, of an endpoint's Stats.
func (s Stats) ID() streams.EndpointID {
	return streams.EndpointID{Capability: s.Capability, App: s.App}
}

// Overview is what came of all attempts within a time.
type Overview struct {
	// Since is the first minute that counts; the last one is still under way.
	Since time.Time `json:"since"`
	Total Stats     `json:"total"`
	// Apps and Endpoints are those that had attempts, by name.
	Apps      []Stats `json:"apps"`
	Endpoints []Stats `json:"endpoints"`
}

// Endpoint returns what came of one endpoint's attempts; zeros when it had none.
func (o Overview) Endpoint(id streams.EndpointID) Stats {
	i, found := slices.BinarySearchFunc(o.Endpoints, id, func(s Stats, id streams.EndpointID) int { return compare(s.ID(), id) })
	if !found {
		return Stats{App: id.App, Capability: id.Capability}
	}
	return o.Endpoints[i]
}

func compare(a, b streams.EndpointID) int {
	return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Capability, b.Capability))
}

// Overview adds up what came since the minute of the given time.
func (w *Window) Overview(since time.Time) Overview {
	since = since.UTC().Truncate(time.Minute)
	o := Overview{Since: since, Apps: []Stats{}, Endpoints: []Stats{}}
	total, apps := newTally(), make(map[string]*tally)
	for id, s := range w.endpoints {
		t := newTally()
		if !s.since(unixMinute(since), t) {
			continue
		}
		o.Endpoints = append(o.Endpoints, t.stats(id.App, id.Capability))
		if apps[id.App] == nil {
			apps[id.App] = newTally()
		}
		apps[id.App].merge(t)
		total.merge(t)
	}
	for app, t := range apps {
		o.Apps = append(o.Apps, t.stats(app, ""))
	}
	o.Total = total.stats("", "")
	byName := func(a, b Stats) int { return compare(a.ID(), b.ID()) }
	slices.SortFunc(o.Endpoints, byName)
	slices.SortFunc(o.Apps, byName)
	return o
}

// Endpoint adds up what came of one endpoint's attempts since the minute of the
// given time.
func (w *Window) Endpoint(id streams.EndpointID, since time.Time) Stats {
	s, t := w.endpoints[id], newTally()
	if s != nil {
		s.since(unixMinute(since), t)
	}
	return t.stats(id.App, id.Capability)
}

// Counts is Endpoint without the percentiles, which cost the most.
func (w *Window) Counts(id streams.EndpointID, since time.Time) Counts {
	c := Counts{}
	if s := w.endpoints[id]; s != nil {
		for _, m := range s.minutes[s.from(unixMinute(since)):] {
			m.counts.addTo(&c)
		}
	}
	return c
}

// Point is a minute, or several, of an endpoint, an app or all.
type Point struct {
	At        time.Time `json:"at"`
	Attempts  uint64    `json:"attempts"`
	Succeeded uint64    `json:"succeeded"`
	AverageMs float64   `json:"averageMs"`
}

// Series returns what came since the minute of the given time in steps of whole
// minutes, the empty ones included, up to and with that of until. An empty app
// or capability stands for all.
func (w *Window) Series(id streams.EndpointID, since, until time.Time, step time.Duration) []Point {
	width := max(int64(step/time.Minute), 1)
	first, last := unixMinute(since), unixMinute(until)
	if last < first {
		return nil
	}
	counts := make([]Counts, (last-first)/width+1)
	add := func(s *series) {
		for _, m := range s.minutes[s.from(first):] {
			if m.at > last {
				break
			}
			c := &counts[(m.at-first)/width]
			c.Attempts += uint64(m.counts.attempts)
			c.Succeeded += uint64(m.counts.succeeded)
			c.DurationUs += m.counts.durationUs
		}
	}
	switch s := w.endpoints[id]; {
	case s != nil:
		add(s)
	case id.App == "" || id.Capability == "":
		for at, s := range w.endpoints {
			if (id.App == "" || id.App == at.App) && (id.Capability == "" || id.Capability == at.Capability) {
				add(s)
			}
		}
	}
	points := make([]Point, len(counts))
	for i, c := range counts {
		points[i] = Point{At: time.Unix((first+int64(i)*width)*60, 0).UTC(), Attempts: c.Attempts, Succeeded: c.Succeeded, AverageMs: c.AverageMs()}
	}
	return points
}
