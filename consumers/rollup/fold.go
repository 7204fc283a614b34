package rollup

import (
	"fmt"
	"time"

	"backstop/streams"
)

// Fold adds up entries of the delivery log in their order. It holds the newest
// minute, and what is not stored yet of those before. The zero value begins
// with the log's first entry.
type Fold struct {
	through uint64
	minutes []*minute // oldest first
	dirty   int       // parts that have changed since they were stored
}

// minute is one minute's sums.
type minute struct {
	at    time.Time
	parts []*part
	place map[streams.EndpointID]*running
}

type part struct {
	sums  []*running
	dirty bool // changed since it was stored
}

// running is a Sum that is being added to.
type running struct {
	id        streams.EndpointID
	in        *part
	counts    Counts
	durations sketch
}

// Resume returns the Fold that goes on from what is stored: every part of the
// newest minute, and Through of the one that was stored last. A part that is
// missing is left empty.
func Resume(parts []Part, through uint64) (*Fold, error) {
	f := &Fold{through: through}
	for _, p := range parts {
		m := f.minute(p.Minute.UTC())
		for len(m.parts) <= p.Number {
			m.parts = append(m.parts, &part{})
		}
		for _, sum := range p.Endpoints {
			r := m.add(m.parts[p.Number], sum.ID())
			r.counts.merge(sum.Counts)
			if err := r.durations.merge(sum.Durations); err != nil {
				return nil, fmt.Errorf("the durations of %s in %s can't be read: %w", r.id, p.Key(), err)
			}
		}
	}
	return f, nil
}

// Through is the last entry that was added.
func (f *Fold) Through() uint64 { return f.through }

// Add counts the entry with the given sequence, which the log stored at the
// given time. Times that go backward, as they may when another server takes
// over, count in the newest minute.
func (f *Fold) Add(sequence uint64, storedAt time.Time, id streams.EndpointID, e Entry) {
	r := f.minute(storedAt.UTC().Truncate(time.Minute)).running(id)
	r.counts.add(e)
	if e.Requested {
		r.durations.add(e.DurationMs)
	}
	if !r.in.dirty {
		r.in.dirty = true
		f.dirty++
	}
	f.through = sequence
}

// SkipTo goes on behind the given sequence, as after an entry that can't be
// read, or before the first one of a log that was made anew.
func (f *Fold) SkipTo(sequence uint64) { f.through = sequence }

// Dirty is how many parts Unstored would return.
func (f *Fold) Dirty() int { return f.dirty }

// minute returns the sums of that minute, or of the newest one if that is later.
func (f *Fold) minute(at time.Time) *minute {
	if n := len(f.minutes); n > 0 && !at.After(f.minutes[n-1].at) {
		return f.minutes[n-1]
	}
	m := &minute{at: at, place: make(map[streams.EndpointID]*running)}
	f.minutes = append(f.minutes, m)
	return m
}

func (m *minute) running(id streams.EndpointID) *running {
	if r := m.place[id]; r != nil {
		return r
	}
	if n := len(m.parts); n == 0 || len(m.parts[n-1].sums) == PartSize {
		m.parts = append(m.parts, &part{})
	}
	return m.add(m.parts[len(m.parts)-1], id)
}

func (m *minute) add(to *part, id streams.EndpointID) *running {
	r := &running{id: id, in: to, durations: newSketch()}
	to.sums = append(to.sums, r)
	m.place[id] = r
	return r
}

// Unstored returns the parts that have changed since Stored, oldest first; the
// last one is of the newest minute. They belong together: whoever stores them
// stores all of them or none.
func (f *Fold) Unstored() []Part {
	var parts []Part
	for _, m := range f.minutes {
		for i, p := range m.parts {
			if p.dirty {
				parts = append(parts, Part{Minute: m.at, Number: i, Parts: len(m.parts), Through: f.through, Endpoints: p.snapshot()})
			}
		}
	}
	return parts
}

func (p *part) snapshot() []Sum {
	sums := make([]Sum, len(p.sums))
	for i, r := range p.sums {
		sums[i] = Sum{App: r.id.App, Capability: r.id.Capability, Counts: r.counts.clone(), Durations: r.durations.bytes()}
	}
	return sums
}

// Stored notes that what Unstored returned is stored, nothing having been
// added since.
func (f *Fold) Stored() {
	f.dirty = 0
	if n := len(f.minutes); n > 1 {
		f.minutes = f.minutes[n-1:]
	}
	for _, m := range f.minutes {
		for _, p := range m.parts {
			p.dirty = false
		}
	}
}
