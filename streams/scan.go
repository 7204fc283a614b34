package streams

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// What a scan reads at once, and how long its consumer outlives it if the
// process dies.
const (
	readBatch = 256
	// readWhole is for messages with their payloads: a batch of the largest has
	// to stay well below the 64 MiB for which nats-server cuts a connection off.
	readWhole   = 64
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

func storedAs(msg jetstream.Msg) (stored, uint64, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return stored{}, 0, err
	}
	return stored{Msg: msg, sequence: meta.Sequence.Stream, time: meta.Timestamp}, meta.Sequence.Consumer, nil
}

// forward visits the messages oldest first, until visit returns false.
func (s scan) forward(ctx context.Context, js jetstream.JetStream, visit func(stored) (bool, error)) error {
	if err := s.clamp(ctx, js); err != nil {
		return err
	}
	return s.read(ctx, js, visit)
}

// The windows of backward: the first is about what a page shows, and each
// further one is larger, so that a filter that matches little takes few of
// them. What matches in one of them is held in memory.
const (
	firstWindow = 256
	windowGrows = 4
	mostWindow  = 1 << 16
)

// windows yields the parts of a scan that is clamped, the newest first, none
// of them with more than most sequences.
func (s scan) windows(most uint64) iter.Seq[scan] {
	return func(yield func(scan) bool) {
		w := s
		for size := uint64(firstWindow); w.through > s.after; size = min(size*windowGrows, most) {
			w.after = max(s.after, w.through-min(size, w.through))
			if !yield(w) {
				return
			}
			w.through = w.after
		}
	}
}

// backward visits what pick makes of the messages, newest first, until visit
// returns false; those for which pick returns false are left out, and after its
// error nothing more is visited. As the broker reads only forward, it reads the
// stream in windows from its end: a page of a long stream costs no more than
// the page.
func backward[T any](ctx context.Context, js jetstream.JetStream, s scan, pick func(stored) (T, bool, error), visit func(T) bool) error {
	if err := s.clamp(ctx, js); err != nil {
		return err
	}
	for w := range s.windows(mostWindow) {
		var found []T
		err := w.read(ctx, js, func(m stored) (bool, error) {
			picked, ok, err := pick(m)
			if ok && err == nil {
				found = append(found, picked)
			}
			return true, err
		})
		if err != nil {
			return err
		}
		for _, picked := range slices.Backward(found) {
			if !visit(picked) {
				return nil
			}
		}
	}
	return nil
}

// clamp takes the bounds to where the stream has messages: what was removed
// before its first one needs no looking at.
func (s *scan) clamp(ctx context.Context, js jetstream.JetStream) error {
	stream, err := js.Stream(ctx, s.stream)
	if err != nil {
		return err
	}
	state := stream.CachedInfo().State
	if state.FirstSeq > 0 {
		s.after = max(s.after, state.FirstSeq-1)
	}
	if s.through == 0 || s.through > state.LastSeq {
		s.through = state.LastSeq
	}
	return nil
}

// errScanBroken says that messages of a scan got lost on their way, as when
// the connection went away in the middle.
var errScanBroken = errors.New("the connection to NATS was lost while reading; try again")

// read visits the messages between after and through, oldest first.
func (s scan) read(ctx context.Context, js jetstream.JetStream, visit func(stored) (bool, error)) error {
	if s.after >= s.through {
		return nil
	}
	return withReader(ctx, js, s.stream, jetstream.ConsumerConfig{
		FilterSubject: s.subject, HeadersOnly: s.headersOnly,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: s.after + 1,
	}, func(cons jetstream.Consumer) error {
		next := uint64(1) // of the consumer's own numbers
		for ctx.Err() == nil {
			before := next
			more, err := s.some(cons, &next, visit)
			if !more || err != nil || next == before {
				return err
			}
		}
		return ctx.Err()
	})
}

// some visits what the consumer has now; more is false when the scan is over.
func (s scan) some(cons jetstream.Consumer, next *uint64, visit func(stored) (bool, error)) (more bool, err error) {
	n := readWhole
	if s.headersOnly {
		n = readBatch
	}
	batch, err := cons.FetchNoWait(n)
	if err != nil {
		return false, err
	}
	for msg := range batch.Messages() {
		m, number, err := storedAs(msg)
		switch {
		case err != nil:
			return false, err
		case number != *next:
			return false, errScanBroken
		case m.sequence > s.through:
			return false, nil
		}
		*next++
		if more, err := visit(m); !more || err != nil {
			return false, err
		}
	}
	return true, batch.Error()
}

// withReader does something with a consumer that acknowledges nothing, and
// removes it: a stream may have 1,000 of them, and the server keeps one that
// nobody reads for as long as it was told.
func withReader(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig, do func(jetstream.Consumer) error) error {
	cfg.AckPolicy, cfg.MemoryStorage, cfg.InactiveThreshold = jetstream.AckNonePolicy, true, readLinger
	cons, err := js.CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return err
	}
	defer removeReader(ctx, js, stream, cons)
	return do(cons)
}

func removeReader(ctx context.Context, js jetstream.JetStream, stream string, cons jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	_ = js.DeleteConsumer(ctx, stream, cons.CachedInfo().Name)
}

// sequenceBefore returns the sequence of the last message that a stream stored
// before the given time; 0 when there is none.
func sequenceBefore(ctx context.Context, js jetstream.JetStream, stream string, at time.Time) (uint64, error) {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	before := s.CachedInfo().State.LastSeq
	err = withReader(ctx, js, stream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &at, HeadersOnly: true,
	}, func(cons jetstream.Consumer) error {
		batch, err := cons.FetchNoWait(1)
		if err != nil {
			return err
		}
		for msg := range batch.Messages() {
			m, _, err := storedAs(msg)
			if err != nil {
				return err
			}
			before = min(before, m.sequence-1)
		}
		return batch.Error()
	})
	return before, err
}

// follow calls visit for each message of a stream on subject behind the
// sequence after, and then for each as it is added, until ctx ends, which it
// reports as nil, or visit returns an error, which it returns. A sequence that
// the stream has not reached, as after it was made anew, means with the next
// message. It survives the loss of the connection and of the server.
func follow(ctx context.Context, js jetstream.JetStream, stream, subject string, after uint64, visit func(stored) error) error {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	cons, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, InactiveThreshold: readLinger,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: min(after, s.CachedInfo().State.LastSeq) + 1,
	})
	if err != nil {
		return err
	}
	messages, err := cons.Messages()
	if err != nil {
		return err
	}
	// The library leaves the consumer to the server when the iterator stops.
	defer removeReader(ctx, js, stream, cons)
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case ctx.Err() != nil:
			return nil // it ended because it was told to
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			continue // the consumer is made anew
		case err != nil:
			return err
		}
		m, _, err := storedAs(msg)
		if err != nil {
			return err
		}
		if err := visit(m); err != nil {
			return err
		}
	}
}
