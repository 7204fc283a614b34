package rollup

import (
	"slices"
	"time"

	"backstop/streams"
)

// Window holds the minutes of a day and answers for any part of it. It has an
// entry for each minute in which an endpoint had attempts, of about 150 bytes,
// and nothing of those that had none. The zero value is empty and ready. It is
// not safe for concurrent use.
type Window struct {
	endpoints map[streams.EndpointID]*series
}

// series is one endpoint's minutes, and whole hours of them as far as somebody
// asked for them: a day is then 24 sums and not 1,440.
type series struct {
	minutes []sum // by time
	hours   map[int64]sum
}

// sum is what came of a minute or an hour.
type sum struct {
	at        int64 // Unix time in minutes
	counts    packed
	durations string // bytes of a sketch
}

func unixMinute(t time.Time) int64 { return t.Unix() / 60 }

// Put takes over a part, in the place of an earlier version of it.
func (w *Window) Put(p Part) {
	if w.endpoints == nil {
		w.endpoints = make(map[streams.EndpointID]*series)
	}
	at := unixMinute(p.Minute)
	for _, e := range p.Endpoints {
		id := e.ID()
		s := w.endpoints[id]
		if s == nil {
			s = &series{hours: make(map[int64]sum)}
			w.endpoints[id] = s
		}
		s.put(sum{at: at, counts: pack(e.Counts), durations: string(e.Durations)})
	}
}

func (s *series) put(m sum) {
	i := s.from(m.at)
	if i < len(s.minutes) && s.minutes[i].at == m.at {
		s.minutes[i] = m
	} else {
		s.minutes = slices.Insert(s.minutes, i, m)
	}
	delete(s.hours, m.at/60)
}

// from returns the index of the first minute that is not before at.
func (s *series) from(at int64) int {
	i, _ := slices.BinarySearchFunc(s.minutes, at, func(m sum, at int64) int { return int(m.at - at) })
	return i
}

// Expire forgets what is older.
func (w *Window) Expire(before time.Time) {
	first := unixMinute(before)
	for id, s := range w.endpoints {
		n := s.from(first)
		if n == 0 {
			continue
		}
		if n == len(s.minutes) {
			delete(w.endpoints, id)
			continue
		}
		for _, m := range s.minutes[:n] {
			delete(s.hours, m.at/60)
		}
		s.minutes = slices.Delete(s.minutes, 0, n)
	}
}

// since adds up the minutes from first on into t, and reports whether there
// were any.
func (s *series) since(first int64, t *tally) bool {
	minutes := s.minutes[s.from(first):]
	for i := 0; i < len(minutes); {
		hour := minutes[i].at / 60
		end := i
		for end < len(minutes) && minutes[end].at/60 == hour {
			end++
		}
		if hour*60 >= first {
			t.add(s.hour(hour, minutes[i:end]))
		} else {
			for _, m := range minutes[i:end] {
				t.add(m)
			}
		}
		i = end
	}
	return len(minutes) > 0
}

// hour returns the sum of an hour's minutes, which are all of them, from the
// last time if none has changed.
func (s *series) hour(hour int64, minutes []sum) sum {
	if h, ok := s.hours[hour]; ok {
		return h
	}
	t := newTally()
	for _, m := range minutes {
		t.add(m)
	}
	h := sum{at: hour * 60, counts: pack(t.counts), durations: string(t.durations.bytes())}
	s.hours[hour] = h
	return h
}

// tally is what is being added up.
type tally struct {
	counts    Counts
	durations sketch
}

func newTally() *tally { return &tally{durations: newSketch()} }

func (t *tally) add(s sum) {
	s.counts.addTo(&t.counts)
	// A sketch that somebody changed by hand has no percentiles.
	_ = t.durations.merge([]byte(s.durations))
}

func (t *tally) merge(other *tally) {
	t.counts.merge(other.counts)
	_ = t.durations.MergeWith(other.durations.DDSketch) // fails only for another accuracy
}

func (t *tally) stats(app, capability string) Stats {
	p := t.durations.percentiles(0.5, 0.95, 0.99)
	return Stats{App: app, Capability: capability, Counts: t.counts, P50Ms: p[0], P95Ms: p[1], P99Ms: p[2]}
}
