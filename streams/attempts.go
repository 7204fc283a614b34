package streams

import (
	"context"
	"fmt"
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

// An entry is stored when its attempt is over. storedEarly allows for clocks
// that differ, storedLate also for a long attempt and a broker that was away.
const (
	storedEarly = 5 * time.Second
	storedLate  = 3 * time.Minute
)

// AttemptQuery is one page of a search.
type AttemptQuery struct {
	AttemptFilter
	// Limit is the most entries to return. Defaults to 100.
	Limit int
	// OldestFirst turns the order around; by default the newest comes first.
	OldestFirst bool
	// Cursor goes on where an earlier page ended: its Next. Zero begins anew.
	Cursor uint64
	// MostRead bounds the entries that are read for the page, whether or not
	// they match. Defaults to 100,000, which take about a second.
	MostRead int
}

// AttemptPage is what a search found.
type AttemptPage struct {
	Attempts []Attempt
	// Next is the Cursor of the next page; zero when this was the last one.
	Next uint64
	// Read is how many entries were read.
	Read int
	// Partial says that MostRead was reached before the page was full: there
	// may be more, from Next on.
	Partial bool
}

// Search returns one page of the entries that match, newest first.
func (l *AttemptLog) Search(ctx context.Context, q AttemptQuery) (AttemptPage, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	if q.MostRead <= 0 {
		q.MostRead = 100_000
	}
	stream, err := l.js.Stream(ctx, AttemptStream)
	if err != nil {
		return AttemptPage{}, fmt.Errorf("search the delivery log: %w", err)
	}
	s := attemptSearch{js: l.js, q: q, first: stream.CachedInfo().State.FirstSeq, last: stream.CachedInfo().State.LastSeq}
	if q.OldestFirst {
		err = s.forward(ctx)
	} else {
		err = s.backward(ctx, stream)
	}
	if err != nil {
		return AttemptPage{}, fmt.Errorf("search the delivery log: %w", err)
	}
	return s.page, nil
}

// Follow visits every entry that matches and is stored from now on, until ctx
// ends, which it reports as nil.
func (l *AttemptLog) Follow(ctx context.Context, f AttemptFilter, visit func(Attempt)) error {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{f.subject()}, DeliverPolicy: jetstream.DeliverNewPolicy}
	err := follow(ctx, l.js, AttemptStream, cfg, func(msg jetstream.Msg) error {
		if a, err := DecodeAttempt(msg); err == nil && f.Match(a) {
			visit(a)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("follow the delivery log: %w", err)
	}
	return nil
}

// attemptSearch is the state of one Search.
type attemptSearch struct {
	js          jetstream.JetStream
	q           AttemptQuery
	first, last uint64 // of the log
	page        AttemptPage
}

// forward reads from the oldest on.
func (s *attemptSearch) forward(ctx context.Context) error {
	cfg := jetstream.ConsumerConfig{FilterSubject: s.q.subject()}
	switch {
	case s.q.Cursor > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.q.Cursor+1
	case !s.q.Since.IsZero():
		since := s.q.Since.Add(-storedEarly)
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	return s.read(ctx, cfg, s.last, func(a Attempt) bool {
		switch {
		case len(s.page.Attempts) == s.q.Limit:
			s.page.Next = s.page.Attempts[s.q.Limit-1].Sequence
			return false
		case s.page.Read >= s.q.MostRead:
			s.page.Next, s.page.Partial = a.Sequence-1, true
			return false
		case s.past(a):
			return false
		}
		s.take(a)
		return true
	})
}

// past tells whether the entry, and every later one, lies behind Until.
func (s *attemptSearch) past(a Attempt) bool {
	return !s.q.Until.IsZero() && a.StoredAt.After(s.q.Until.Add(storedLate))
}

func (s *attemptSearch) take(a Attempt) {
	s.page.Read++
	if s.q.Match(a) {
		s.page.Attempts = append(s.page.Attempts, a)
	}
}

// leastStretch is the fewest sequences that backward reads at once: each
// stretch costs a consumer.
const leastStretch = 256

// backward reads stretches of the log from its end to its beginning, as the
// broker reads only forward. The first is as long as should hold a page, and
// each is twice the one before.
func (s *attemptSearch) backward(ctx context.Context, stream jetstream.Stream) error {
	end, err := s.endBefore(ctx, stream)
	if err != nil {
		return err
	}
	length, err := s.stretch(ctx, stream)
	if err != nil {
		return err
	}
	for end >= s.first && end > 0 {
		begin := s.first
		if end-s.first >= length {
			begin = end - length + 1
		}
		tooOld, err := s.readStretch(ctx, begin, end)
		switch {
		case err != nil:
			return err
		case len(s.page.Attempts) > s.q.Limit:
			s.page.Attempts = s.page.Attempts[:s.q.Limit]
			s.page.Next = s.page.Attempts[s.q.Limit-1].Sequence
			return nil
		case tooOld:
			return nil
		case s.page.Read >= s.q.MostRead && begin > s.first:
			s.page.Next, s.page.Partial = begin, true
			return nil
		}
		end = begin - 1
		length = min(2*length, uint64(s.q.MostRead))
	}
	return nil
}

// endBefore returns the sequence at which to begin reading backward.
func (s *attemptSearch) endBefore(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	if s.q.Cursor > 0 {
		return min(s.q.Cursor-1, s.last), nil
	}
	if s.q.Until.IsZero() || time.Until(s.q.Until) > -storedLate {
		return s.last, nil
	}
	// The first entry that was stored late enough after Until ends it.
	until, end := s.q.Until.Add(storedLate), s.last
	cfg := jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &until}
	err := scan(ctx, s.js, stream.CachedInfo().Config.Name, cfg, s.last, func(_ jetstream.Msg, meta *jetstream.MsgMetadata) (bool, error) {
		end = meta.Sequence.Stream
		return false, nil
	})
	return end, err
}

// stretch estimates how much of the log holds a page of the filter's subject.
func (s *attemptSearch) stretch(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	page := uint64(s.q.Limit) + 1
	if s.q.Capability == "" && s.q.App == "" {
		return max(page, leastStretch), nil
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(s.q.subject()))
	if err != nil {
		return 0, err
	}
	var matching uint64
	for _, n := range info.State.Subjects {
		matching += n
	}
	return max(page*2*info.State.Msgs/max(matching, 1), leastStretch), nil
}

// readStretch adds what matches between two sequences, newest first. tooOld
// says that everything before was stored before Since.
func (s *attemptSearch) readStretch(ctx context.Context, begin, end uint64) (tooOld bool, err error) {
	earlier := s.page.Attempts
	s.page.Attempts = nil
	cfg := jetstream.ConsumerConfig{FilterSubject: s.q.subject(), DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: begin}
	seen := false
	err = s.read(ctx, cfg, end, func(a Attempt) bool {
		if !seen {
			tooOld = !s.q.Since.IsZero() && a.StoredAt.Before(s.q.Since.Add(-storedEarly))
			seen = true
		}
		s.take(a)
		return true
	})
	slices.Reverse(s.page.Attempts)
	s.page.Attempts = append(earlier, s.page.Attempts...)
	return tooOld, err
}

// read visits entries up to a sequence. One that can't be read is left out: it
// would hide all others.
func (s *attemptSearch) read(ctx context.Context, cfg jetstream.ConsumerConfig, last uint64, visit func(Attempt) bool) error {
	return scan(ctx, s.js, AttemptStream, cfg, last, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) (bool, error) {
		a, err := DecodeAttempt(msg)
		if err != nil {
			return true, nil //nolint:nilerr // see above
		}
		return visit(a), nil
	})
}
