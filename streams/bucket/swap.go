package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// maxRaces is how many races in a row Swap may lose before it gives up: with
// the pause, half a second of somebody else always being faster.
const maxRaces = 100

// racePause is the longest wait after a lost race. It lets a replica catch up
// that answers reads from behind the leader.
const racePause = 10 * time.Millisecond

// Swap changes a key by compare-and-set: it calls change with the key's value
// (nil when there is none) and writes what change returns, and starts again
// when somebody else was faster. An error of change ends it and is returned as
// it is; a value that change leaves as it was is not written. Swap returns the
// revision that holds the value, and whether the key was made by it.
func Swap(ctx context.Context, kv jetstream.KeyValue, key string, change func(old []byte) ([]byte, error)) (revision uint64, created bool, err error) {
	for range maxRaces {
		old, revision, err := Read(ctx, kv, key)
		if err != nil {
			return 0, false, err
		}
		value, err := change(old)
		if err != nil {
			return 0, false, err
		}
		if revision != 0 && bytes.Equal(old, value) {
			return revision, false, nil
		}
		written, err := Write(ctx, kv, key, value, revision)
		if !errors.Is(err, ErrConflict) {
			return written, err == nil && revision == 0, err
		}
		select {
		case <-ctx.Done():
			return 0, false, fmt.Errorf("write %s to bucket %s: %w", key, kv.Bucket(), ctx.Err())
		case <-time.After(rand.N(racePause)): //nolint:gosec // spreads retries, guards nothing
		}
	}
	return 0, false, fmt.Errorf("%w: %d times in a row", ErrConflict, maxRaces)
}

// ErrConflict says that the key has another revision than the writer expected.
var ErrConflict = errors.New("changed by somebody else at the same time")

// Write sets a key that has the given revision now; 0 means that there is no
// such key. It returns the new revision, or ErrConflict. After another error,
// such as no answer in time, the value may or may not have been written.
func Write(ctx context.Context, kv jetstream.KeyValue, key string, value []byte, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var err error
	var written uint64
	if revision == 0 {
		written, err = kv.Create(ctx, key, value)
	} else {
		written, err = kv.Update(ctx, key, value, revision)
	}
	switch {
	case err == nil:
		return written, nil
	case conflict(err):
		return 0, ErrConflict
	default:
		return 0, fmt.Errorf("write %s to bucket %s: %w", key, kv.Bucket(), explain(err))
	}
}

// Put sets a key whatever its revision is now, and returns the new one.
func Put(ctx context.Context, kv jetstream.KeyValue, key string, value []byte) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	revision, err := kv.Put(ctx, key, value)
	if err != nil {
		return 0, fmt.Errorf("write %s to bucket %s: %w", key, kv.Bucket(), explain(err))
	}
	return revision, nil
}

// Remove deletes a key that has the given revision now, and returns
// ErrConflict when it has another.
func Remove(ctx context.Context, kv jetstream.KeyValue, key string, revision uint64) error {
	return remove(ctx, kv, key, func(ctx context.Context) error {
		return kv.Delete(ctx, key, jetstream.LastRevision(revision))
	})
}

func remove(ctx context.Context, kv jetstream.KeyValue, key string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	switch err := do(ctx); {
	case err == nil:
		return nil
	case conflict(err):
		return ErrConflict
	default:
		return fmt.Errorf("remove %s from bucket %s: %w", key, kv.Bucket(), explain(err))
	}
}

// Erase removes a key that has the given revision now, and returns ErrConflict
// when it has another. Unlike Remove it leaves no trace for good: of a bucket
// with a LimitMarkerTTL, the trace goes after that time.
func Erase(ctx context.Context, kv jetstream.KeyValue, key string, revision uint64, trace time.Duration) error {
	return remove(ctx, kv, key, func(ctx context.Context) error {
		return kv.Purge(ctx, key, jetstream.LastRevision(revision), jetstream.PurgeTTL(trace))
	})
}

// explain adds to a timeout what to do about it.
func explain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: JetStream doesn't answer; try again when it does", err)
	}
	return err
}

// conflict tells whether a compare-and-set lost. A replicated bucket has a
// code of its own for it, which Create (when the key was just deleted) passes
// on without a sentinel.
func conflict(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) ||
		errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}

// Read returns the value and revision of a key; revision 0 means that there is
// no such key.
func Read(ctx context.Context, kv jetstream.KeyValue, key string) (value []byte, revision uint64, err error) {
	entry, err := Get(ctx, kv, key)
	if err != nil || entry == nil {
		return nil, 0, err
	}
	return entry.Value(), entry.Revision(), nil
}

// Get returns the entry of a key; nil means that there is no such key.
func Get(ctx context.Context, kv jetstream.KeyValue, key string) (jetstream.KeyValueEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	entry, err := kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, nil //nolint:nilnil // as documented
	case err != nil:
		return nil, fmt.Errorf("read %s from bucket %s: %w", key, kv.Bucket(), explain(err))
	default:
		return entry, nil
	}
}
