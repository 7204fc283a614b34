package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/nats-io/nats.go/jetstream"
)

// NoticeLog reads the NOTICES stream.
type NoticeLog struct{ js jetstream.JetStream }

// NewNoticeLog returns the notices of js.
func NewNoticeLog(js jetstream.JetStream) *NoticeLog { return &NoticeLog{js: js} }

// StoredNotice is a notice and its place in the stream.
type StoredNotice struct {
	Sequence uint64 `json:"sequence"`
	Notice
}

// NoticeFilter selects notices. The zero value selects all.
type NoticeFilter struct {
	// Kind, App and Capability select exact matches when not empty.
	Kind            NoticeKind
	App, Capability string
	// Before is a sequence: only notices before it, when not zero.
	Before uint64
}

func (f NoticeFilter) match(n StoredNotice) bool {
	return (f.App == "" || f.App == n.App) && (f.Capability == "" || f.Capability == n.Capability)
}

func (f NoticeFilter) subject() string {
	if f.Kind == "" {
		return NoticeSubject("*")
	}
	return NoticeSubject(string(f.Kind))
}

// Newest yields the notices that the filter matches, newest first. An error
// ends it.
func (s *NoticeLog) Newest(ctx context.Context, f NoticeFilter) iter.Seq2[StoredNotice, error] {
	return func(yield func(StoredNotice, error) bool) {
		if f.Before == 1 {
			return
		}
		from := scan{stream: NoticeStream, subject: f.subject(), through: max(f.Before, 1) - 1}
		err := from.backward(ctx, s.js, func(m stored) (bool, error) {
			n, ok := decodeNotice(m.Msg, m.sequence)
			return !ok || !f.match(n) || yield(n, nil), nil
		})
		if err != nil {
			yield(StoredNotice{}, fmt.Errorf("read notices: %w", err))
		}
	}
}

// Last returns the sequence of the last notice that was published; 0 when
// there was none yet.
func (s *NoticeLog) Last(ctx context.Context) (uint64, error) {
	stream, err := s.js.Stream(ctx, NoticeStream)
	if err != nil {
		return 0, fmt.Errorf("read notices: %w", err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// Follow calls fn for each notice behind a sequence, and then for each as it is
// published, until ctx ends, which it reports as nil, or fn returns an error,
// which it returns. A sequence that the stream has not reached, as after it was
// made anew, means with the next notice.
func (s *NoticeLog) Follow(ctx context.Context, after uint64, fn func(StoredNotice) error) error {
	last, err := s.Last(ctx)
	if err != nil {
		return err
	}
	start := min(after, last) + 1
	cons, err := s.js.OrderedConsumer(ctx, NoticeStream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start, InactiveThreshold: readLinger,
	})
	if err != nil {
		return fmt.Errorf("follow notices: %w", err)
	}
	messages, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("follow notices: %w", err)
	}
	// The library leaves the consumer to the server when the iterator stops.
	defer func() {
		messages.Stop()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		_ = s.js.DeleteConsumer(ctx, NoticeStream, cons.CachedInfo().Name)
	}()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil // it ended because it was told to
		}
		if err != nil {
			return fmt.Errorf("follow notices: %w", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if n, ok := decodeNotice(msg, meta.Sequence.Stream); ok {
			if err := fn(n); err != nil {
				return err
			}
		}
	}
}

// decodeNotice returns false for a message that is no notice: one of them must
// not hide the rest.
func decodeNotice(msg jetstream.Msg, sequence uint64) (StoredNotice, bool) {
	n := StoredNotice{Sequence: sequence}
	return n, json.Unmarshal(msg.Data(), &n.Notice) == nil
}
