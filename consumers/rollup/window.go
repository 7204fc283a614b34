package rollup

import (
	"cmp"
	"slices"
	"time"

	"backstop/streams"
)

// Window holds the minutes of a day and answers for any part of it. The zero
// value is empty and ready. It is not safe for concurrent use.
type Window struct {
	endpoints map[streams.EndpointID]*series
}

// series is one endpoint's minutes, and whole hours of them as far as somebody
// asked for them: a day is then 24 sums and not 1,440.
type series struct {
	minutes map[int64]*Sum // by Unix time in minutes
	hours   map[int64]*Sum // by Unix time in hours
}

func unixMinute(t time.Time) int64 { return t.Unix() / 60 }

// Put takes over a part, in the place of an earlier version of it.
func (w *Window) Put(p Part) {
	if w.endpoints == nil {
		w.endpoints = make(map[streams.EndpointID]*series)
	}
	at := unixMinute(p.Minute)
	for i := range p.Endpoints {
		id := p.Endpoints[i].ID()
		s := w.endpoints[id]
		if s == nil {
			s = &series{minutes: make(map[int64]*Sum), hours: make(map[int64]*Sum)}
			w.endpoints[id] = s
		}
		s.minutes[at] = &p.Endpoints[i]
		delete(s.hours, at/60)
	}
}

// Expire forgets what is older.
func (w *Window) Expire(before time.Time) {
	first := unixMinute(before)
	for id, s := range w.endpoints {
		for at := range s.minutes {
			if at < first {
				delete(s.minutes, at)
				delete(s.hours, at/60)
			}
		}
		if len(s.minutes) == 0 {
			delete(w.endpoints, id)
		}
	}
}

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

// tally is a Stats that is being added to.
type tally struct {
	counts    Counts
	durations sketch
}

func newTally() *tally { return &tally{durations: newSketch()} }

func (t *tally) add(s *Sum) {
	t.counts.merge(s.Counts)
	// What Put took over was decoded, but for a sketch that somebody changed
	// by hand: then it has no percentiles.
	_ = t.durations.merge(s.Durations)
}

func (t *tally) merge(other *tally) {
	t.counts.merge(other.counts)
	_ = t.durations.MergeWith(other.durations.DDSketch) // fails only for another accuracy
}

func (t *tally) stats(app, capability string) Stats {
	p := t.durations.percentiles(0.5, 0.95, 0.99)
	return Stats{App: app, Capability: capability, Counts: t.counts, P50Ms: p[0], P95Ms: p[1], P99Ms: p[2]}
}

// Overview adds up what came since the minute of the given time.
func (w *Window) Overview(since time.Time) Overview {
	since = since.UTC().Truncate(time.Minute)
	o := Overview{Since: since, Apps: []Stats{}, Endpoints: []Stats{}}
	total, apps := newTally(), make(map[string]*tally)
	for id, s := range w.endpoints {
		t := s.since(unixMinute(since))
		if t == nil {
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

// since adds up the minutes from first on; nil when there are none.
func (s *series) since(first int64) *tally {
	var t *tally
	add := func(sum *Sum) {
		if t == nil {
			t = newTally()
		}
		t.add(sum)
	}
	hours := make(map[int64]bool) // whole ones that are asked for
	for at, sum := range s.minutes {
		switch {
		case at < first:
		case at/60*60 >= first:
			hours[at/60] = true
		default:
			add(sum)
		}
	}
	for hour := range hours {
		add(s.hour(hour))
	}
	return t
}

// hour returns the sum of an hour's minutes, from the last time if none of
// them has changed.
func (s *series) hour(hour int64) *Sum {
	if sum := s.hours[hour]; sum != nil {
		return sum
	}
	t := newTally()
	for at := hour * 60; at < hour*60+60; at++ {
		if sum := s.minutes[at]; sum != nil {
			t.add(sum)
		}
	}
	sum := &Sum{Counts: t.counts, Durations: t.durations.bytes()}
	s.hours[hour] = sum
	return sum
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
	for at, s := range w.endpoints {
		if id.App != "" && id.App != at.App || id.Capability != "" && id.Capability != at.Capability {
			continue
		}
		for minute, sum := range s.minutes {
			if minute >= first && minute <= last {
				c := &counts[(minute-first)/width]
				c.Attempts += sum.Attempts
				c.Succeeded += sum.Succeeded
				c.DurationMs += sum.DurationMs
			}
		}
	}
	points := make([]Point, len(counts))
	for i, c := range counts {
		points[i] = Point{At: time.Unix((first+int64(i)*width)*60, 0).UTC(), Attempts: c.Attempts, Succeeded: c.Succeeded, AverageMs: c.AverageMs()}
	}
	return points
}
