package streams

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What a scan reads at once, and how long its consumer outlives it if the
// process dies.
const (
	readBatch   = 256
	readLinger  = time.Minute
	readTimeout = 10 * time.Second
)

// scan says which messages of a stream are read: those on subject with a
// sequence after After and up to Through.
type scan struct {
	stream, subject string
	// after and through bound the sequence: first excluded, last included.
	// Zero means from the first, and up to the last that is stored when the
	// scan begins.
	after, through uint64
	// headersOnly leaves the bodies in the broker, which tells their size in
	// the header Nats-Msg-Size.
	headersOnly bool
}

// stored is a message as it lies in a stream.
type stored struct {
	jetstream.Msg
	sequence uint64
	time     time.Time
}

// forward visits the messages oldest first, until visit returns false.
func (s scan) forward(ctx context.Context, js jetstream.JetStream, visit func(stored) (bool, error)) error {
	last, err := s.last(ctx, js)
	if err != nil || last <= s.after {
		return err
	}
	if s.through == 0 || s.through > last {
		s.through = last
	}
	return s.window(ctx, js, visit)
}

// The windows of backward: the first is what a page shows, and each further one
// is larger, so that a filter that matches little takes few of them.
const (
	firstWindow = 256
	windowGrows = 4
)

// backward visits the messages newest first, until visit returns false. It
// reads the stream in windows from its end, so that a page of a long stream
// costs no more than the page.
func (s scan) backward(ctx context.Context, js jetstream.JetStream, visit func(stored) (bool, error)) error {
	last, err := s.last(ctx, js)
	if err != nil {
		return err
	}
	if s.through == 0 || s.through > last {
		s.through = last
	}
	first := s.after
	for size := uint64(firstWindow); s.through > first; size *= windowGrows {
		w := s
		w.after = max(first, s.through-min(size, s.through))
		var found []stored
		err := w.window(ctx, js, func(m stored) (bool, error) {
			found = append(found, m)
			return true, nil
		})
		if err != nil {
			return err
		}
		for _, m := range slices.Backward(found) {
			if more, err := visit(m); !more || err != nil {
				return err
			}
		}
		s.through = w.after
	}
	return nil
}

// last returns the sequence of the stream's last message, and moves after to
// where the first one is: what was removed before it needs no looking at.
func (s *scan) last(ctx context.Context, js jetstream.JetStream) (uint64, error) {
	stream, err := js.Stream(ctx, s.stream)
	if err != nil {
		return 0, err
	}
	state := stream.CachedInfo().State
	if state.FirstSeq > 0 {
		s.after = max(s.after, state.FirstSeq-1)
	}
	return state.LastSeq, nil
}

// window visits the messages between after and through, oldest first.
func (s scan) window(ctx context.Context, js jetstream.JetStream, visit func(stored) (bool, error)) error {
	cons, err := js.CreateConsumer(ctx, s.stream, jetstream.ConsumerConfig{
		FilterSubject: s.subject, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: readLinger,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: s.after + 1, HeadersOnly: s.headersOnly,
	})
	if err != nil {
		return err
	}
	// A stream may have 1,000 consumers, and the server keeps an inactive one
	// for as long as it was told.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		_ = js.DeleteConsumer(ctx, s.stream, cons.CachedInfo().Name)
	}()
	for ctx.Err() == nil {
		more, err := s.some(cons, visit)
		if !more || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// some visits what the consumer has now; more is false when that was all.
func (s scan) some(cons jetstream.Consumer, visit func(stored) (bool, error)) (more bool, err error) {
	batch, err := cons.FetchNoWait(readBatch)
	if err != nil {
		return false, err
	}
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			return false, err
		}
		if meta.Sequence.Stream > s.through {
			return false, nil
		}
		if more, err = visit(stored{Msg: msg, sequence: meta.Sequence.Stream, time: meta.Timestamp}); !more || err != nil {
			return false, err
		}
	}
	return more, batch.Error()
}
