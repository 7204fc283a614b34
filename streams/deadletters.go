package streams

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/killpoint"
)

// DeadLetters reads the DLQ stream and carries out what operators decide.
type DeadLetters struct{ js jetstream.JetStream }

// NewDeadLetters returns the dead letters of js.
func NewDeadLetters(js jetstream.JetStream) *DeadLetters { return &DeadLetters{js: js} }

// Filter selects dead letters. The zero value selects all.
type Filter struct {
	// IDs are event ids; an event that was broadcast may have a dead letter at
	// several endpoints.
	IDs []string
	// Capability, App and Reason select exact matches when not empty; the App
	// NoApp selects broadcasts that no app could receive.
	Capability, App string
	Reason          DeadLetterReason
	// Fingerprint selects those of one cause, when not empty.
	Fingerprint string
	// Since and Until bound FailedAt, inclusively, when not zero.
	Since, Until time.Time
	// After and Through bound the Sequence, when not zero: those behind After
	// and up to Through. The sequence of the last one that was seen goes on
	// from there.
	After, Through uint64
	// WithoutPayload leaves the payloads in the broker; Size is told anyway.
	WithoutPayload bool
}

// subject returns the narrowest subject that the filter allows.
func (f Filter) subject() string {
	token := func(name string) string {
		if name == "" {
			return "*"
		}
		return deadLetterToken(name)
	}
	return string(DLQ) + "." + token(f.Capability) + "." + token(f.App)
}

// among tells whether a dead letter's name is the wanted one, as it is or as the
// token of its subject, which is what counts go by. No wanted one is any.
func among(wanted, name string) bool {
	return wanted == "" || wanted == name || wanted == deadLetterToken(name)
}

// Match tells whether the filter selects d.
func (f Filter) Match(d DeadLetter) bool {
	switch {
	case !among(f.Capability, d.Capability), !among(f.App, d.App),
		f.Reason != "" && f.Reason != d.Reason,
		f.Fingerprint != "" && f.Fingerprint != d.Fingerprint(),
		!f.Since.IsZero() && d.FailedAt.Before(f.Since),
		!f.Until.IsZero() && d.FailedAt.After(f.Until),
		d.Sequence <= f.After && f.After != 0,
		d.Sequence > f.Through && f.Through != 0:
		return false
	}
	return len(f.IDs) == 0 || slices.Contains(f.IDs, d.ID)
}

// scan returns what to read for the filter.
func (f Filter) scan() scan {
	return scan{stream: DeadLetterStream, subject: f.subject(), after: f.After, through: f.Through, headersOnly: f.WithoutPayload}
}

// Select yields the dead letters that the filter matches, oldest first, up to
// the last one that was stored when it began. An error ends it.
func (s *DeadLetters) Select(ctx context.Context, f Filter) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		err := f.scan().forward(ctx, s.js, func(m stored) (bool, error) {
			d, match, err := f.pick(m)
			return err == nil && (!match || yield(d, nil)), err
		})
		if err != nil {
			yield(DeadLetter{}, fmt.Errorf("read dead letters: %w", err))
		}
	}
}

// SelectNewest yields the same, newest first.
func (s *DeadLetters) SelectNewest(ctx context.Context, f Filter) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		if err := backward(ctx, s.js, f.scan(), f.pick, func(d DeadLetter) bool { return yield(d, nil) }); err != nil {
			yield(DeadLetter{}, fmt.Errorf("read dead letters: %w", err))
		}
	}
}

// pick reads a dead letter and tells whether the filter matches it.
func (f Filter) pick(m stored) (DeadLetter, bool, error) {
	d, err := DecodeDeadLetter(m.Subject(), m.Headers(), m.Data(), m.sequence)
	return d, err == nil && f.Match(d), err
}

// mostCounted is up to how many subjects of a stream are counted one by one.
// Publishers can make as many as they like in DLQ, with names of apps that
// there aren't.
const mostCounted = 20_000

// CountSubjects returns the state of a stream with the number of messages of
// each of its subjects. Above 20,000 subjects it doesn't count them.
func CountSubjects(ctx context.Context, stream jetstream.Stream) (jetstream.StreamState, error) {
	if state := stream.CachedInfo().State; state.NumSubjects > mostCounted {
		return state, nil
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return jetstream.StreamState{}, err
	}
	return info.State, nil
}

// Counts returns how many dead letters there are, and how many of them each
// endpoint has; those of broadcasts that no app could receive are under an
// empty App. With more than 20,000 endpoints the total is all it tells.
func (s *DeadLetters) Counts(ctx context.Context) (total uint64, each map[EndpointID]uint64, err error) {
	stream, err := s.js.Stream(ctx, DeadLetterStream)
	if err != nil {
		return 0, nil, fmt.Errorf("count dead letters: %w", err)
	}
	state, err := CountSubjects(ctx, stream)
	if err != nil {
		return 0, nil, fmt.Errorf("count dead letters: %w", err)
	}
	if state.Subjects == nil && state.NumSubjects > 0 {
		return state.Msgs, nil, nil
	}
	each = make(map[EndpointID]uint64, len(state.Subjects))
	for subject, n := range state.Subjects {
		if _, id, err := ParseSubject(subject); err == nil {
			each[id] += n
		}
	}
	return state.Msgs, each, nil
}

// Get returns the dead letter at a sequence as it is now, or ErrGone.
func (s *DeadLetters) Get(ctx context.Context, sequence uint64) (DeadLetter, error) {
	stream, err := s.js.Stream(ctx, DeadLetterStream)
	if err != nil {
		return DeadLetter{}, err
	}
	msg, err := stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return DeadLetter{}, ErrGone
	}
	if err != nil {
		return DeadLetter{}, err
	}
	return DecodeDeadLetter(msg.Subject, msg.Header, msg.Data, msg.Sequence)
}

// Last returns the sequence of the last dead letter that was ever stored: a
// selection up to it holds nothing that fails later.
func (s *DeadLetters) Last(ctx context.Context) (uint64, error) {
	stream, err := s.js.Stream(ctx, DeadLetterStream)
	if err != nil {
		return 0, err
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// Store writes a dead letter and waits until the broker has it. Writing one
// that is there already is no error.
func (s *DeadLetters) Store(ctx context.Context, d DeadLetter) error {
	if _, err := s.js.PublishMsg(ctx, d.Msg()); err != nil {
		return fmt.Errorf("store the dead letter of %s at %s: %w", d.ID, d.EndpointID, err)
	}
	return nil
}

// ErrGone says that a dead letter was replayed or discarded in the meantime.
var ErrGone = errors.New("the dead letter is gone: it was replayed or discarded in the meantime")

// Replay publishes the dead letter's event again, waits until the broker has
// it, and removes the dead letter. A crash in between leaves both; replaying
// it again is absorbed by de-duplication for EventDuplicates. The error is
// ErrGone when the dead letter is not there any more, and ErrNoSuchName when it
// was for an app that can't exist.
func (s *DeadLetters) Replay(ctx context.Context, d DeadLetter) error {
	return s.decide(ctx, d, "replay", func() error {
		if (d.App != "" && !ValidName(d.App)) || !ValidName(d.Capability) {
			return fmt.Errorf("%w: %q", ErrNoSuchName, d.EndpointID.String())
		}
		if _, err := s.js.PublishMsg(ctx, d.ReplayMsg()); err != nil {
			return publishError(err, d.EndpointID)
		}
		return nil
	})
}

// Discard removes a dead letter for good, after it has put on record, as a
// notice, who did so and what for. The error is ErrGone when the dead letter
// is not there any more.
func (s *DeadLetters) Discard(ctx context.Context, d DeadLetter, by, why string) error {
	return s.decide(ctx, d, "discard", func() error {
		notice := Notice{
			Kind: NoticeDiscarded, App: d.App, Capability: d.Capability, Time: time.Now(),
			Message: fmt.Sprintf("%s discarded the dead letter of event %s for %s", by, d.ID, d.EndpointID),
			Details: map[string]any{"id": d.ID, "by": by, "why": why, "reason": d.Reason, "failedAt": d.FailedAt},
		}
		msg, err := notice.Msg()
		if err != nil {
			return err
		}
		_, err = s.js.PublishMsg(ctx, msg)
		return err
	})
}

// decide carries out what was decided about a dead letter that is still there,
// and then removes it.
func (s *DeadLetters) decide(ctx context.Context, d DeadLetter, verb string, act func() error) error {
	stream, err := s.js.Stream(ctx, DeadLetterStream)
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, d.ID, err)
	}
	if err := present(ctx, stream, d.Sequence); err != nil {
		return fmt.Errorf("%s %s: %w", verb, d.ID, err)
	}
	if err := act(); err != nil {
		return fmt.Errorf("%s %s: %w", verb, d.ID, err)
	}
	killpoint.Here(killpoint.DeadLetterDecided)
	if err := stream.DeleteMsg(ctx, d.Sequence); err != nil {
		// Somebody else who decided the same at the same time is no failure:
		// de-duplication has made one event of both replays.
		if errors.Is(present(ctx, stream, d.Sequence), ErrGone) {
			return nil
		}
		return fmt.Errorf("%s %s: done, but the dead letter could not be removed: %w", verb, d.ID, err)
	}
	return nil
}

// present returns ErrGone when the DLQ stream has no message at the sequence.
func present(ctx context.Context, stream jetstream.Stream, sequence uint64) error {
	_, err := stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return ErrGone
	}
	return err
}
