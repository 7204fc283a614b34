package streams

import (
	"context"
	"errors"
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

// errScanBroken says that messages of a scan got lost on their way, as when
// the connection went away in the middle.
var errScanBroken = errors.New("the connection to NATS was lost while reading; try again")

// scan visits what cfg selects of a stream, oldest first, up to the sequence
// last. It ends early when visit returns false or an error. cfg says where it
// begins and which subject; the rest is filled in.
func scan(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig, last uint64,
	visit func(jetstream.Msg, *jetstream.MsgMetadata) (bool, error),
) error {
	cfg.AckPolicy, cfg.MemoryStorage, cfg.InactiveThreshold = jetstream.AckNonePolicy, true, readLinger
	cons, err := js.CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return err
	}
	// A stream may have 1,000 consumers, and the server keeps an inactive one
	// for as long as it was told.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		_ = js.DeleteConsumer(ctx, stream, cons.CachedInfo().Name)
	}()
	next := uint64(1) // of the consumer's own numbers
	for ctx.Err() == nil {
		batch, err := cons.FetchNoWait(readBatch)
		if err != nil {
			return err
		}
		before := next
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return err
			}
			if meta.Sequence.Consumer != next {
				return errScanBroken
			}
			next++
			if meta.Sequence.Stream > last {
				return nil
			}
			if more, err := visit(msg, meta); !more || err != nil {
				return err
			}
		}
		if next == before || batch.Error() != nil {
			return batch.Error()
		}
	}
	return ctx.Err()
}

// follow visits what cfg selects of a stream and what is added to it, until
// ctx ends, which it reports as nil. It survives the loss of the connection.
func follow(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.OrderedConsumerConfig, visit func(jetstream.Msg) error) error {
	cons, err := js.OrderedConsumer(ctx, stream, cfg)
	if err != nil {
		return err
	}
	messages, err := cons.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it ended because it was told to
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			continue // the consumer is made anew
		case err != nil:
			return err
		}
		if err := visit(msg); err != nil {
			return err
		}
	}
}
