package consumers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers/rollup"
	"backstop/streams"
)

// How the delivery log is folded into the rollups.
const (
	// foldEvery is how often what was folded is stored, unless that takes
	// longer than a foldShare of the time.
	foldEvery = 2 * time.Second
	foldShare = 20
	// foldPull is how long a pull waits for more entries.
	foldPull = time.Second
	// foldBatch is the most entries of one pull.
	foldBatch = 2048
	// foldParts is when what was folded is stored at once: an atomic batch has
	// at most streams.MaxBatch messages.
	foldParts = streams.MaxBatch / 2
	// foldLook is how often the broker is asked what is left to be read.
	foldLook = 5 * time.Second
)

// folder adds up the delivery log in the rollups bucket. One replica does it,
// for the entries of all.
//
// The sums and the last entry that is in them are stored in one atomic batch,
// so that a crash neither loses nor repeats an entry: whoever goes on reads
// both. The batch names the bucket's last sequence, so that of two replicas
// which both believe to hold the lease one is refused, and begins anew from
// what the other has stored. The consumer remembers nothing.
type folder struct {
	js     jetstream.JetStream
	log    *slog.Logger
	behind atomic.Int64  // nanoseconds
	folded atomic.Uint64 // last entry that is added up, stored or not
}

// lag is how old the entries are that are not added up yet: 0 when there are
// none, or when another replica does it.
func (f *folder) lag() time.Duration { return time.Duration(f.behind.Load()) }

// run folds until ctx ends.
func (f *folder) run(ctx context.Context) {
	defer f.behind.Store(0)
	for ctx.Err() == nil {
		if err := f.fold(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("can't add up the delivery log, trying again", "error", err)
			sleep(ctx, time.Second)
		}
	}
}

// folding is one go at the log.
type folding struct {
	*folder
	sums   *rollup.Fold
	stored uint64    // last sequence of the rollups bucket
	save   time.Time // when to store next
	looked time.Time // when the broker was asked what is left
	at     time.Time // when the last entry was stored in the log
	next   uint64    // of the consumer's own numbers
}

func (f *folder) fold(ctx context.Context) error {
	g := folding{folder: f, save: time.Now().Add(foldEvery), looked: time.Now(), at: time.Now(), next: 1}
	if err := g.resume(ctx); err != nil {
		return err
	}
	cons, err := f.js.CreateConsumer(ctx, streams.AttemptStream, jetstream.ConsumerConfig{
		Description:   "Adds up the delivery log; what it has read is remembered in the bucket " + streams.RollupsBucket,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: g.sums.Through() + 1,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = f.js.DeleteConsumer(ctx, streams.AttemptStream, cons.CachedInfo().Name)
	}()
	for ctx.Err() == nil {
		var failed error
		n, err := pullOnce(ctx, cons, foldBatch, foldPull, func(msg jetstream.Msg) {
			if failed == nil {
				failed = g.take(ctx, msg)
			}
		})
		if err := errors.Join(err, failed); err != nil {
			return err
		}
		if !time.Now().Before(g.save) {
			if err := g.store(ctx); err != nil {
				return err
			}
		}
		if err := g.look(ctx, cons, n); err != nil {
			return err
		}
	}
	return nil
}

var errEntriesMissing = errors.New("entries of the delivery log got lost on their way")

// take adds one entry.
func (g *folding) take(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	if meta.Sequence.Consumer != g.next {
		return errEntriesMissing
	}
	g.next++
	g.at = meta.Timestamp
	_, id, err := streams.ParseSubject(msg.Subject())
	entry, unreadable := rollup.DecodeEntry(msg.Data())
	if err != nil || unreadable != nil {
		g.sums.SkipTo(meta.Sequence.Stream)
		return nil //nolint:nilerr // somebody put it there by hand
	}
	g.sums.Add(meta.Sequence.Stream, meta.Timestamp, id, entry)
	g.folded.Store(meta.Sequence.Stream)
	if g.sums.Dirty() >= foldParts {
		return g.store(ctx)
	}
	return nil
}

// store writes what has changed, all of it or nothing.
func (g *folding) store(ctx context.Context) error {
	start := time.Now()
	defer func() {
		now := time.Now()
		g.save = now.Add(max(foldEvery, foldShare*now.Sub(start)))
	}()
	parts := g.sums.Unstored()
	if len(parts) == 0 {
		return nil
	}
	batch := make([]*nats.Msg, len(parts))
	for i, p := range parts {
		value, err := p.Encode()
		if err != nil {
			return err
		}
		batch[i] = nats.NewMsg(rollupSubject(p.Key()))
		batch[i].Data = value
	}
	if err := g.publish(ctx, batch); err != nil {
		return fmt.Errorf("store the rollups: %w", err)
	}
	g.stored += uint64(len(batch))
	g.sums.Stored()
	return nil
}

// publish stores the parts, unless anything else was stored since.
func (g *folding) publish(ctx context.Context, parts []*nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	parts[0].Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(g.stored, 10))
	if len(parts) == 1 { // a batch of one costs the broker more than one message
		_, err := g.js.PublishMsg(ctx, parts[0])
		return err
	}
	return streams.PublishBatch(ctx, g.js.Conn(), parts)
}

const rollupPrefix = "$KV." + streams.RollupsBucket + "."

func rollupSubject(key string) string { return rollupPrefix + key }
func rollupKey(subject string) string { return strings.TrimPrefix(subject, rollupPrefix) }

// look asks the broker what is left to be read.
func (g *folding) look(ctx context.Context, cons jetstream.Consumer, read int) error {
	if time.Since(g.looked) < foldLook {
		return nil
	}
	g.looked = time.Now()
	info, err := cons.Info(ctx)
	switch {
	case err != nil:
		return err
	case read == 0 && info.Delivered.Consumer >= g.next:
		return errEntriesMissing
	case info.NumPending == 0:
		g.behind.Store(0)
	default:
		g.behind.Store(int64(time.Since(g.at)))
	}
	return nil
}

// resume reads what is stored, and finds its place in the log.
func (g *folding) resume(ctx context.Context) error {
	bucket, err := g.js.Stream(ctx, "KV_"+streams.RollupsBucket)
	if err != nil {
		return err
	}
	state := bucket.CachedInfo().State
	g.stored = state.LastSeq
	newest, at, err := newestPart(ctx, bucket, state)
	if err != nil {
		return err
	}
	var parts []rollup.Part
	for i := range newest.Parts {
		part, err := readPart(ctx, bucket, rollup.Key(newest.Minute, i))
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound), err == nil && !part.Minute.Equal(newest.Minute):
			g.log.Warn("a part of the rollups is missing", "minute", newest.Minute, "part", i)
		case err != nil:
			return err
		default:
			parts = append(parts, part)
		}
	}
	if g.sums, err = rollup.Resume(parts, newest.Through); err != nil {
		return err
	}
	return g.place(ctx, at)
}

func readPart(ctx context.Context, bucket jetstream.Stream, key string) (rollup.Part, error) {
	msg, err := bucket.GetLastMsgForSubject(ctx, rollupSubject(key))
	if err != nil {
		return rollup.Part{}, fmt.Errorf("read the rollup %s: %w", key, err)
	}
	return rollup.DecodePart(key, msg.Data)
}

// newestPart returns the part that was stored last, and when; none when there
// is none. What somebody put or removed by hand is passed over.
func newestPart(ctx context.Context, bucket jetstream.Stream, state jetstream.StreamState) (rollup.Part, time.Time, error) {
	const mostPassed = 1000
	for seq := state.LastSeq; seq >= max(state.FirstSeq, 1) && state.LastSeq-seq < mostPassed; seq-- {
		msg, err := bucket.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return rollup.Part{}, time.Time{}, fmt.Errorf("read the rollups: %w", err)
		}
		if part, err := rollup.DecodePart(rollupKey(msg.Subject), msg.Data); err == nil {
			return part, msg.Time, nil
		}
	}
	return rollup.Part{}, time.Time{}, nil
}

// place corrects where to go on in the log, which may have been made anew, or
// have lost its end in a power failure, or its beginning to age. at is when
// the newest part was stored.
func (g *folding) place(ctx context.Context, at time.Time) error {
	stream, err := g.js.Stream(ctx, streams.AttemptStream)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	through := g.sums.Through()
	switch {
	case through > 0 && info.Created.After(at):
		g.log.Warn("the delivery log was made anew; it is added up from its start")
		g.sums.SkipTo(0)
	case through > info.State.LastSeq:
		g.log.Warn("the delivery log has lost its end", "entries", through-info.State.LastSeq)
		g.sums.SkipTo(info.State.LastSeq)
	case through > 0 && through+1 < info.State.FirstSeq:
		g.log.Warn("entries of the delivery log were gone before they were added up", "entries", info.State.FirstSeq-through-1)
	}
	return nil
}
