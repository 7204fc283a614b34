package secrets

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/bucket"
)

// Grace is how long a rotated secret stays active by default: a day for the
// app's people to deploy the new one.
const Grace = 24 * time.Hour

// maxActive is how many secrets an app can have at once. Every one costs a
// signature in each request's header; rotating three times within the grace is
// trouble enough.
const maxActive = 4

// ErrExists says that the app has a secret already.
var ErrExists = errors.New("the app has a secret already")

// ErrNone says that the app has no secret.
var ErrNone = errors.New("the app has no secret")

// Store changes the secrets in the bucket. It needs no key file and can't
// read what it wrote. Every change is a compare-and-set: of two at once, both
// take effect, one after the other.
type Store struct {
	kv  jetstream.KeyValue
	now func() time.Time
}

// NewStore returns a store on kv, the secrets bucket.
func NewStore(kv jetstream.KeyValue) *Store { return &Store{kv: kv, now: time.Now} }

// Create gives the app its first secret. If it has one, that stays, and Create
// returns ErrExists: of two that create at once, one is told that its secret
// is not the app's.
func (s *Store) Create(ctx context.Context, app string, secret Secret) error {
	return s.change(ctx, app, secret, func(old record, e entry) (record, error) {
		if len(old) > 0 {
			return nil, ErrExists
		}
		return record{e}, nil
	})
}

// Set makes secret the app's only one. Those that it had are void at once.
func (s *Store) Set(ctx context.Context, app string, secret Secret) error {
	return s.change(ctx, app, secret, func(_ record, e entry) (record, error) { return record{e}, nil })
}

// Rotate makes secret the app's newest. Those that it had stay active for the
// grace (0: not at all), or until they would have expired anyway; the oldest
// are dropped when there are more than four. An app without a secret gets its first.
func (s *Store) Rotate(ctx context.Context, app string, secret Secret, grace time.Duration) error {
	if grace < 0 {
		return fmt.Errorf("rotate the secret of %s: the grace is %v; it can't be negative", app, grace)
	}
	return s.change(ctx, app, secret, func(old record, e entry) (record, error) {
		return old.rotate(e, e.Created.Add(grace)), nil
	})
}

// Delete removes the app's secrets. It returns ErrNone when there are none.
func (s *Store) Delete(ctx context.Context, app string) error {
	has, err := s.Has(ctx, app)
	if err != nil {
		return err
	}
	if !has {
		return fmt.Errorf("app %s: %w", app, ErrNone)
	}
	// Purge and not Delete: no earlier revision stays in the stream.
	if err := s.kv.Purge(ctx, app); err != nil {
		return fmt.Errorf("delete the secrets of %s: %w", app, err)
	}
	return nil
}

// Has tells whether the app has secrets.
func (s *Store) Has(ctx context.Context, app string) (bool, error) {
	if err := streams.CheckName("app", app); err != nil {
		return false, err
	}
	_, revision, err := bucket.Read(ctx, s.kv, app)
	return revision != 0, err
}

// change seals the secret and writes what next makes of it and the app's
// record, which is empty when there is none.
func (s *Store) change(ctx context.Context, app string, secret Secret, next func(record, entry) (record, error)) error {
	if err := streams.CheckName("app", app); err != nil {
		return err
	}
	if err := Check(secret.Reveal()); err != nil {
		return fmt.Errorf("app %s: %w", app, err)
	}
	public, err := publicKey(ctx, s.kv)
	if err != nil {
		return fmt.Errorf("app %s: %w", app, err)
	}
	sealed, err := public.seal(app, secret)
	if err != nil {
		return err
	}
	e := newEntry(sealed, s.now())
	_, _, err = bucket.Swap(ctx, s.kv, app, func(old []byte) ([]byte, error) {
		r, err := parseRecord(old)
		if err != nil {
			return nil, err
		}
		if r, err = next(r, e); err != nil {
			return nil, err
		}
		return r.json()
	})
	if err != nil {
		return fmt.Errorf("secrets of %s: %w", app, err)
	}
	return nil
}
