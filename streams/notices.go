package streams

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// NoticeLog reads the NOTICES stream, which keeps them for a week.
type NoticeLog struct{ js jetstream.JetStream }

// NewNoticeLog returns the notices of js.
func NewNoticeLog(js jetstream.JetStream) *NoticeLog { return &NoticeLog{js: js} }

// NoticeFilter selects notices. The zero value selects all.
type NoticeFilter struct {
	// Kind selects one kind when not empty.
	Kind NoticeKind
	// Since selects those published since then when not zero.
	Since time.Time
	// After selects those behind a sequence when not zero, as after a
	// reconnect; it goes before Since.
	After uint64
}

func (f NoticeFilter) subject() string {
	if f.Kind == "" {
		return NoticeSubject("*")
	}
	return NoticeSubject(string(f.Kind))
}

// List returns what is stored and matches, oldest first.
func (l *NoticeLog) List(ctx context.Context, f NoticeFilter) ([]Notice, error) {
	stream, err := l.js.Stream(ctx, NoticeStream)
	if err != nil {
		return nil, fmt.Errorf("read notices: %w", err)
	}
	cfg := jetstream.ConsumerConfig{FilterSubject: f.subject()}
	switch {
	case f.After > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.After+1
	case !f.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.Since
	}
	var found []Notice
	err = scan(ctx, l.js, NoticeStream, cfg, stream.CachedInfo().State.LastSeq, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) (bool, error) {
		if n, err := DecodeNotice(msg); err == nil {
			found = append(found, n)
		}
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read notices: %w", err)
	}
	return found, nil
}

// Follow visits what matches and is stored, and then what is published, until
// ctx ends, which it reports as nil. Without Since and After it begins with
// what is published from now on.
func (l *NoticeLog) Follow(ctx context.Context, f NoticeFilter, visit func(Notice)) error {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{f.subject()}, DeliverPolicy: jetstream.DeliverNewPolicy}
	switch {
	case f.After > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.After+1
	case !f.Since.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &f.Since
	}
	err := follow(ctx, l.js, NoticeStream, cfg, func(msg jetstream.Msg) error {
		if n, err := DecodeNotice(msg); err == nil {
			visit(n)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("follow notices: %w", err)
	}
	return nil
}

// DecodeNotice reads a notice from its message in NOTICES.
func DecodeNotice(msg jetstream.Msg) (Notice, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return Notice{}, err
	}
	n := Notice{}
	if err := json.Unmarshal(msg.Data(), &n); err != nil {
		return Notice{}, fmt.Errorf("notice %d can't be read: %w", meta.Sequence.Stream, err)
	}
	n.Sequence = meta.Sequence.Stream
	return n, nil
}
