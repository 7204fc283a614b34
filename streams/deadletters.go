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
	// Since and Until bound FailedAt, inclusively, when not zero.
	Since, Until time.Time
}

// subject returns the narrowest subject that the filter allows.
func (f Filter) subject() string {
	capability, app := f.Capability, f.App
	if capability == "" {
		capability = "*"
	}
	if app == "" {
		app = "*"
	}
	return string(DLQ) + "." + capability + "." + app
}

// Match tells whether the filter selects d.
func (f Filter) Match(d DeadLetter) bool {
	switch {
	case f.Capability != "" && f.Capability != d.Capability,
		f.App != "" && f.App != d.App && (f.App != NoApp || d.App != ""),
		f.Reason != "" && f.Reason != d.Reason,
		!f.Since.IsZero() && d.FailedAt.Before(f.Since),
		!f.Until.IsZero() && d.FailedAt.After(f.Until):
		return false
	}
	return len(f.IDs) == 0 || slices.Contains(f.IDs, d.ID)
}

// What Select reads at once, and how long its consumer outlives it if the
// process dies.
const (
	readBatch   = 256
	readLinger  = time.Minute
	readTimeout = 10 * time.Second
)

// Select yields the dead letters that the filter matches, oldest first, up to
// the last one that was stored when it began. An error ends it.
func (s *DeadLetters) Select(ctx context.Context, f Filter) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		if err := s.each(ctx, f, func(d DeadLetter) bool { return yield(d, nil) }); err != nil {
			yield(DeadLetter{}, fmt.Errorf("read dead letters: %w", err))
		}
	}
}

func (s *DeadLetters) each(ctx context.Context, f Filter, visit func(DeadLetter) bool) error {
	stream, err := s.js.Stream(ctx, DeadLetterStream)
	if err != nil {
		return err
	}
	last := stream.CachedInfo().State.LastSeq
	cons, err := s.js.CreateConsumer(ctx, DeadLetterStream, jetstream.ConsumerConfig{
		FilterSubject: f.subject(), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: readLinger,
	})
	if err != nil {
		return err
	}
	// A stream may have 1,000 consumers, and the server keeps an inactive one
	// for as long as it was told.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		_ = s.js.DeleteConsumer(ctx, DeadLetterStream, cons.CachedInfo().Name)
	}()
	for ctx.Err() == nil {
		more, err := readSome(cons, last, f, visit)
		if !more || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// readSome visits what the consumer has now; more is false when that was all.
func readSome(cons jetstream.Consumer, last uint64, f Filter, visit func(DeadLetter) bool) (more bool, err error) {
	batch, err := cons.FetchNoWait(readBatch)
	if err != nil {
		return false, err
	}
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			return false, err
		}
		if meta.Sequence.Stream > last {
			return false, nil
		}
		d, err := DecodeDeadLetter(msg.Subject(), msg.Headers(), msg.Data(), meta.Sequence.Stream)
		if err != nil {
			return false, err
		}
		if f.Match(d) && !visit(d) {
			return false, nil
		}
		more = true
	}
	return more, batch.Error()
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
// ErrGone when the dead letter is not there any more.
func (s *DeadLetters) Replay(ctx context.Context, d DeadLetter) error {
	return s.decide(ctx, d, "replay", func() error {
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
