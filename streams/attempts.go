package streams

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// AttemptLog reads the delivery log.
type AttemptLog struct{ js jetstream.JetStream }

// NewAttemptLog returns the delivery log of js.
func NewAttemptLog(js jetstream.JetStream) *AttemptLog { return &AttemptLog{js: js} }

// Outcomes that an AttemptFilter takes beside verdicts and reasons.
const (
	OutcomeSuccess = "success" // the app did its part
	OutcomeFailed  = "failed"  // it did not
)

// AttemptFilter selects entries of the delivery log. The zero value selects all.
type AttemptFilter struct {
	// Capability and App select exact matches when not empty. With either, the
	// broker reads no more of the log than it has to.
	Capability, App string
	// ID is the X-Request-ID of an event or call. Nothing finds it faster than
	// reading what the other fields leave.
	ID string
	// Outcome is OutcomeSuccess, OutcomeFailed, a verdict ("delivered",
	// "retry", "rejected", "refused"), or a reason such as "timeout".
	Outcome string
	// Since and Until bound the time at which attempts began, inclusively,
	// when not zero.
	Since, Until time.Time
}

// Match tells whether the filter selects a.
func (f AttemptFilter) Match(a Attempt) bool {
	switch {
	case f.Capability != "" && f.Capability != a.Capability,
		f.App != "" && f.App != a.App,
		f.ID != "" && f.ID != a.ID,
		!f.Since.IsZero() && a.Time.Before(f.Since),
		!f.Until.IsZero() && a.Time.After(f.Until):
		return false
	}
	switch f.Outcome {
	case "":
		return true
	case OutcomeSuccess:
		return a.Success
	case OutcomeFailed:
		return !a.Success
	default:
		return f.Outcome == a.Verdict || f.Outcome == a.Reason
	}
}

// subject returns the narrowest subject that the filter allows.
func (f AttemptFilter) subject() string {
	id := EndpointID{Capability: f.Capability, App: f.App}
	if id.Capability == "" {
		id.Capability = "*"
	}
	if id.App == "" {
		id.App = "*"
	}
	return id.Subject(Attempts)
}

// AttemptQuery is one page of a search.
type AttemptQuery struct {
	AttemptFilter
	// Limit is the most entries to return. Defaults to 100.
	Limit int
	// OldestFirst turns the order around; by default the newest comes first.
	OldestFirst bool
	// Cursor goes on where an earlier page of the same search ended: its Next.
	// Zero begins anew.
	Cursor uint64
	// MostRead bounds the entries that are read for the page, whether or not
	// they match. Defaults to 100,000, which take about a second.
	MostRead uint64
}

// AttemptPage is what a search found.
type AttemptPage struct {
	Attempts []Attempt
	// Next is the Cursor of the next page; zero when this was the last one.
	Next uint64
	// Read is how many entries were read.
	Read uint64
	// Partial says that MostRead was reached before the page was full: there
	// may be more, from Next on.
	Partial bool
}

// Search returns one page of the entries that match, newest first.
func (l *AttemptLog) Search(ctx context.Context, q AttemptQuery) (AttemptPage, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	if q.MostRead == 0 {
		q.MostRead = 100_000
	}
	s := attemptSearch{js: l.js, q: q}
	err := s.bound(ctx)
	switch {
	case err != nil:
	case q.OldestFirst:
		err = s.forward(ctx)
	default:
		err = s.backward(ctx)
	}
	if err != nil {
		return AttemptPage{}, fmt.Errorf("search the delivery log: %w", err)
	}
	return s.page, nil
}

// Follow calls visit for every entry that matches and is stored from now on,
// until ctx ends, which it reports as nil, or visit returns an error, which it
// returns.
func (l *AttemptLog) Follow(ctx context.Context, f AttemptFilter, visit func(Attempt) error) error {
	// With the highest sequence, the next entry is the first.
	var visited error
	err := follow(ctx, l.js, AttemptStream, f.subject(), math.MaxUint64, func(m stored) error {
		if a, err := decodeAttempt(m); err == nil && f.Match(a) {
			visited = visit(a)
		}
		return visited
	})
	if err != nil && visited == nil {
		return fmt.Errorf("follow the delivery log: %w", err)
	}
	return err
}

// attemptSearch is the state of one Search.
type attemptSearch struct {
	js   jetstream.JetStream
	q    AttemptQuery
	all  scan // what may match
	page AttemptPage
}

// An entry is stored when its attempt is over. storedEarly allows for clocks
// that differ, storedLate also for a long attempt and a broker that was away.
const (
	storedEarly = 5 * time.Second
	storedLate  = 3 * time.Minute
)

// bound leaves out of the log what was stored too early or too late to match.
func (s *attemptSearch) bound(ctx context.Context) (err error) {
	s.all = scan{stream: AttemptStream, subject: s.q.subject()}
	if !s.q.Since.IsZero() {
		if s.all.after, err = sequenceBefore(ctx, s.js, AttemptStream, s.q.Since.Add(-storedEarly)); err != nil {
			return err
		}
	}
	if err := s.all.clamp(ctx, s.js); err != nil {
		return err
	}
	if late := s.q.Until.Add(storedLate); !s.q.Until.IsZero() && late.Before(time.Now()) {
		last, err := sequenceBefore(ctx, s.js, AttemptStream, late)
		if err != nil {
			return err
		}
		s.all.through = min(s.all.through, last)
	}
	switch {
	case s.q.Cursor == 0:
	case s.q.OldestFirst:
		s.all.after = max(s.all.after, s.q.Cursor)
	default:
		s.all.through = min(s.all.through, s.q.Cursor-1)
	}
	return nil
}

// forward reads from the oldest on.
func (s *attemptSearch) forward(ctx context.Context) error {
	return s.all.read(ctx, s.js, func(m stored) (bool, error) {
		if a, ok := s.look(m); ok && !s.take(a) {
			return false, nil
		}
		if s.page.Read >= s.q.MostRead && m.sequence < s.all.through {
			s.page.Next, s.page.Partial = m.sequence, true
			return false, nil
		}
		return true, nil
	})
}

// backward reads from the newest on.
func (s *attemptSearch) backward(ctx context.Context) error {
	for w := range s.all.windows(min(mostWindow, s.q.MostRead)) {
		if s.page.Read >= s.q.MostRead {
			s.page.Next, s.page.Partial = w.through+1, true
			return nil
		}
		var found []Attempt
		err := w.read(ctx, s.js, func(m stored) (bool, error) {
			if a, ok := s.look(m); ok {
				found = append(found, a)
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		for _, a := range slices.Backward(found) {
			if !s.take(a) {
				return nil
			}
		}
	}
	return nil
}

// look reads an entry and tells whether it matches. One that can't be read
// doesn't: it would hide all others.
func (s *attemptSearch) look(m stored) (Attempt, bool) {
	s.page.Read++
	a, err := decodeAttempt(m)
	return a, err == nil && s.q.Match(a)
}

// take adds an entry to the page. It returns false when there is no room for
// it, which makes it the first of the next page.
func (s *attemptSearch) take(a Attempt) bool {
	if n := len(s.page.Attempts); n == s.q.Limit {
		s.page.Next = s.page.Attempts[n-1].Sequence
		return false
	}
	s.page.Attempts = append(s.page.Attempts, a)
	return true
}
