package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/bucket"
)

// Errors of a Store, to be told apart with errors.Is.
var (
	// ErrNotFound: there is no manifest of that app.
	ErrNotFound = errors.New("no such app")
	// ErrConflict: the manifest has another revision than was expected.
	ErrConflict = errors.New("the manifest was changed meanwhile")
)

// Store keeps manifests in the apps bucket: key = app, value = the manifest's
// JSON, indented, so that `nats kv get apps quiz` reads well.
//
// What is stored is judged as Parse does, but for addresses: the operator may
// have changed the allowed networks since, and the dialler decides.
type Store struct {
	kv  jetstream.KeyValue
	log *slog.Logger
}

// NewStore returns a store on kv, the apps bucket. The log is told of values
// that can't be read; nil discards it.
func NewStore(kv jetstream.KeyValue, log *slog.Logger) *Store {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Store{kv: kv, log: log}
}

// Stored is a manifest as a Store has it.
type Stored struct {
	App      string
	Revision uint64
	Manifest Manifest
	// Err says why the value can't be read. Manifest is empty then.
	Err error
}

// Put stores the manifest under its appId. With ifRevision it does so only if
// the stored one has that revision, 0 meaning that there is none, and returns
// ErrConflict otherwise; without, it replaces whatever is there. It returns
// the revision that holds the manifest, and whether the app is new. Storing
// what is there already writes nothing.
func (s *Store) Put(ctx context.Context, m Manifest, ifRevision *uint64) (revision uint64, created bool, err error) {
	value, err := m.encode("")
	if err != nil {
		return 0, false, fmt.Errorf("manifest of %q: %w", m.AppID, err)
	}
	value = bytes.TrimSpace(value) // on one line: `nats kv get` shows others as base64
	// A Manifest may have been made or changed by code. What Parse refuses
	// must not get in, since it would be refused on the way out.
	if _, err := Parse(value, Options{anyAddress: true}); err != nil {
		return 0, false, err
	}
	if ifRevision == nil {
		revision, created, err = bucket.Swap(ctx, s.kv, m.AppID, func([]byte) ([]byte, error) { return value, nil })
	} else {
		created = *ifRevision == 0
		revision, err = bucket.Write(ctx, s.kv, m.AppID, value, *ifRevision)
	}
	switch {
	case errors.Is(err, bucket.ErrConflict):
		return 0, false, fmt.Errorf("app %s: %w; read it again, and apply your change to that", m.AppID, ErrConflict)
	case err != nil:
		return 0, false, fmt.Errorf("app %s: %w", m.AppID, err)
	}
	return revision, created, nil
}

// Get returns the manifest of an app and its revision, ErrNotFound when there
// is none, or Problems when what is there isn't a manifest.
func (s *Store) Get(ctx context.Context, app string) (Manifest, uint64, error) {
	if err := streams.CheckName("app", app); err != nil {
		return Manifest{}, 0, err
	}
	value, revision, err := bucket.Read(ctx, s.kv, app)
	switch {
	case err != nil:
		return Manifest{}, 0, err
	case revision == 0:
		return Manifest{}, 0, fmt.Errorf("app %s: %w (see: backstop apps list)", app, ErrNotFound)
	}
	stored := read(app, value, revision)
	return stored.Manifest, stored.Revision, stored.Err
}

// List returns all manifests, sorted by app. One that can't be read is in the
// list with its Err, so that it doesn't hide the others.
func (s *Store) List(ctx context.Context) ([]Stored, error) {
	entries, err := bucket.List(ctx, s.kv)
	if err != nil {
		return nil, err
	}
	list := make([]Stored, 0, len(entries))
	for _, e := range entries {
		list = append(list, read(e.Key(), e.Value(), e.Revision()))
	}
	return list, nil
}

// Delete removes the manifest of an app. It returns ErrNotFound when there is
// none.
func (s *Store) Delete(ctx context.Context, app string) error {
	if _, _, err := s.Get(ctx, app); err != nil && !errors.As(err, new(Problems)) {
		return err // what can't be read can be removed
	}
	if err := s.kv.Delete(ctx, app); err != nil {
		return fmt.Errorf("app %s: %w", app, err)
	}
	return nil
}

// DeleteRevision removes the manifest of an app that has the given revision
// now, and returns ErrConflict when it has another.
func (s *Store) DeleteRevision(ctx context.Context, app string, revision uint64) error {
	if err := streams.CheckName("app", app); err != nil {
		return err
	}
	err := bucket.Remove(ctx, s.kv, app, revision)
	if errors.Is(err, bucket.ErrConflict) {
		return fmt.Errorf("app %s: %w", app, ErrConflict)
	}
	return err
}

// Update is one thing that Store.Watch tells.
type Update struct {
	// App is whose manifest changed. Empty when Loaded.
	App string
	// Manifest is the new one. Nil: the app was removed.
	Manifest *Manifest
	// Revision of the change; 0 for a removal that was noticed late.
	Revision uint64
	// Loaded says that all manifests which were there when the watch began
	// have been told. It comes once, on its own.
	Loaded bool
}

// Watch tells fn every manifest, then Loaded, then each change, one call at a
// time. It blocks until ctx ends, which it reports as nil; a lost connection
// it outlives, and a connection that is closed for good is an error. A value
// that can't be read is logged and not told: the app goes on with its last
// good manifest.
func (s *Store) Watch(ctx context.Context, fn func(Update)) error {
	return bucket.Watch(ctx, s.kv, s.log, func(c bucket.Change) {
		switch {
		case c.Loaded:
			fn(Update{Loaded: true})
		case c.Removed:
			fn(Update{App: c.Key, Revision: c.Revision})
		default:
			stored := read(c.Key, c.Value, c.Revision)
			if stored.Err != nil {
				s.log.Error("manifest can't be read; the last good one stays in force",
					"app", c.Key, "revision", c.Revision, "problems", stored.Err.Error(),
					"try", "backstop apps apply with a valid manifest")
				return
			}
			fn(Update{App: c.Key, Manifest: &stored.Manifest, Revision: c.Revision})
		}
	})
}

// read parses a stored value. A value under another app's key can't speak for
// that app.
func read(key string, value []byte, revision uint64) Stored {
	m, err := Parse(value, Options{anyAddress: true})
	if err == nil && m.AppID != key {
		err = Problems{{Pointer: "/appId", Message: fmt.Sprintf("is %q, but the value is stored as %q", m.AppID, key)}}
	}
	if err != nil {
		return Stored{App: key, Revision: revision, Err: err}
	}
	return Stored{App: key, Revision: revision, Manifest: m}
}
