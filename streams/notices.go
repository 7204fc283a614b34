package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// NoticeLog reads the NOTICES stream, which keeps notices for a week.
type NoticeLog struct{ js jetstream.JetStream }

// NewNoticeLog returns the notices of js.
func NewNoticeLog(js jetstream.JetStream) *NoticeLog { return &NoticeLog{js: js} }

// NoticeFilter selects notices. The zero value selects all.
type NoticeFilter struct {
	// Kind, App and Capability select exact matches when not empty.
	Kind            NoticeKind
	App, Capability string
	// Since selects those that were published since then when not zero.
	Since time.Time
	// After and Before bound the Sequence, both exclusively, when not zero.
	// The sequence of the last notice that was seen goes on from there.
	After, Before uint64
}

// match tells whether the filter selects n, as far as it isn't a matter of where
// n is stored.
func (f NoticeFilter) match(n Notice) bool {
	return (f.App == "" || f.App == n.App) && (f.Capability == "" || f.Capability == n.Capability)
}

// scan returns what to read. none says that the filter leaves nothing.
func (f NoticeFilter) scan(ctx context.Context, js jetstream.JetStream) (s scan, none bool, err error) {
	s = scan{stream: NoticeStream, subject: NoticeSubject("*"), after: f.After, through: max(f.Before, 1) - 1}
	if f.Kind != "" {
		s.subject = NoticeSubject(string(f.Kind))
	}
	if !f.Since.IsZero() {
		before, err := sequenceBefore(ctx, js, NoticeStream, f.Since)
		if err != nil {
			return s, false, err
		}
		s.after = max(s.after, before)
	}
	return s, f.Before == 1, nil
}

// Select yields the notices that the filter matches, oldest first, up to the
// last one that was published when it began. An error ends it.
func (l *NoticeLog) Select(ctx context.Context, f NoticeFilter) iter.Seq2[Notice, error] {
	return l.read(ctx, f, func(s scan, yield func(Notice, error) bool) error {
		return s.forward(ctx, l.js, func(m stored) (bool, error) {
			n, ok := decodeNotice(m)
			return !ok || !f.match(n) || yield(n, nil), nil
		})
	})
}

// SelectNewest yields the same, newest first.
func (l *NoticeLog) SelectNewest(ctx context.Context, f NoticeFilter) iter.Seq2[Notice, error] {
	return l.read(ctx, f, func(s scan, yield func(Notice, error) bool) error {
		return backward(ctx, l.js, s, func(m stored) (Notice, bool, error) {
			n, ok := decodeNotice(m)
			return n, ok && f.match(n), nil
		}, func(n Notice) bool { return yield(n, nil) })
	})
}

func (l *NoticeLog) read(ctx context.Context, f NoticeFilter, read func(scan, func(Notice, error) bool) error) iter.Seq2[Notice, error] {
	return func(yield func(Notice, error) bool) {
		s, none, err := f.scan(ctx, l.js)
		if err == nil && !none {
			err = read(s, yield)
		}
		if err != nil {
			yield(Notice{}, fmt.Errorf("read notices: %w", err))
		}
	}
}

// Last returns the sequence of the last notice that was published; 0 when
// there was none yet. Following After it misses none from now on.
func (l *NoticeLog) Last(ctx context.Context) (uint64, error) {
	stream, err := l.js.Stream(ctx, NoticeStream)
	if err != nil {
		return 0, fmt.Errorf("read notices: %w", err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// Follow calls visit for each notice that the filter matches and is stored, and
// then for each as it is published, until ctx ends, which it reports as nil, or
// visit returns an error, which it returns. An After that the stream has not
// reached, as when it was made anew, means with the next notice; Before is
// of no use here.
func (l *NoticeLog) Follow(ctx context.Context, f NoticeFilter, visit func(Notice) error) error {
	s, _, err := f.scan(ctx, l.js)
	if err != nil {
		return fmt.Errorf("follow notices: %w", err)
	}
	var visited error
	err = follow(ctx, l.js, s.stream, s.subject, s.after, func(m stored) error {
		if n, ok := decodeNotice(m); ok && f.match(n) {
			visited = visit(n)
		}
		return visited
	})
	if err != nil && visited == nil {
		return fmt.Errorf("follow notices: %w", err)
	}
	return err
}

// DecodeNotice reads a notice from its message in NOTICES.
func DecodeNotice(msg jetstream.Msg) (Notice, error) {
	m, _, err := storedAs(msg)
	if err != nil {
		return Notice{}, err
	}
	n, ok := decodeNotice(m)
	if !ok {
		return Notice{}, fmt.Errorf("message %d of %s is not a notice", m.sequence, NoticeStream)
	}
	return n, nil
}

// decodeNotice returns false for a message that is no notice: one of them must
// not hide the rest.
func decodeNotice(m stored) (Notice, bool) {
	n := Notice{}
	if json.Unmarshal(m.Data(), &n) != nil {
		return Notice{}, false
	}
	n.Sequence = m.sequence
	return n, true
}
