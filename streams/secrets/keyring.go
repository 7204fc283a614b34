package secrets

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/bucket"
)

// Keyring keeps the opened secrets of all apps in memory, as they are in the
// bucket now. Run fills it and keeps it current; Active reads it from any
// number of goroutines.
type Keyring struct {
	key  *Key
	kv   jetstream.KeyValue
	log  *slog.Logger
	apps sync.Map // app → *ring
}

// NewKeyring returns an empty keyring on kv, the secrets bucket. A nil log
// discards.
func NewKeyring(key *Key, kv jetstream.KeyValue, log *slog.Logger) *Keyring {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Keyring{key: key, kv: kv, log: log}
}

// ring is one app's secrets, those that stay active longest first. As a
// rotated secret never outlives a newer one, that is newest first, and the
// active ones are a beginning of the list. It is never changed.
type ring struct {
	texts   []string
	expires []time.Time // zero: never
}

// Active returns the app's secrets that are active at now, newest first; none
// for an app that has none. It takes no lock and doesn't allocate. The caller
// must not change what it gets, nor print it.
func (k *Keyring) Active(app string, now time.Time) []string {
	v, _ := k.apps.Load(app)
	r, ok := v.(*ring)
	if !ok {
		return nil
	}
	n := len(r.texts)
	for n > 0 && !r.expires[n-1].IsZero() && !now.Before(r.expires[n-1]) {
		n--
	}
	return r.texts[:n:n]
}

// Run follows the bucket until ctx ends, which it reports as nil; an error
// means that the connection was closed for good. It calls ready once, when
// all secrets that were there are in the keyring.
//
// A secret that can't be opened is logged, without its content; when an app
// has no other, what the keyring had for it stays.
func (k *Keyring) Run(ctx context.Context, ready func()) error {
	return bucket.Watch(ctx, k.kv, k.log, func(c bucket.Change) {
		switch {
		case c.Loaded:
			ready()
		case c.Key == PublicKeyName:
			k.checkPublic(c)
		case !streams.ValidName(c.Key):
			k.log.Warn("a key of bucket secrets is not an app; it is ignored", "key", c.Key)
		case c.Removed:
			k.apps.Delete(c.Key)
		default:
			k.take(c)
		}
	})
}

// take replaces an app's ring with what can be opened of a new value.
func (k *Keyring) take(c bucket.Change) {
	r, err := parseRecord(c.Value)
	if err != nil {
		k.log.Error("secrets can't be read; the last good ones stay in force", "app", c.Key, "revision", c.Revision)
		return
	}
	// Newest first already, unless somebody wrote it by hand.
	slices.SortStableFunc(r, func(a, b entry) int { return compareExpiry(b.Expires, a.Expires) })
	next := &ring{}
	for _, e := range r {
		s, err := k.key.open(c.Key, e.Sealed)
		if err != nil {
			k.log.Error("a secret can't be used; rotate it, or give this replica the key file that it was sealed for",
				"app", c.Key, "id", e.ID, "revision", c.Revision, "error", err)
			continue
		}
		next.texts = append(next.texts, s.Reveal())
		next.expires = append(next.expires, e.Expires)
	}
	if len(next.texts) == 0 && len(r) > 0 {
		return // the last good ones stay
	}
	k.apps.Store(c.Key, next)
}

// compareExpiry orders times of expiry; never (zero) is the latest.
func compareExpiry(a, b time.Time) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	default:
		return a.Compare(b)
	}
}

// checkPublic warns when those that seal don't seal for this keyring.
func (k *Keyring) checkPublic(c bucket.Change) {
	if c.Removed {
		k.log.Error("the public key was removed from bucket secrets; no secret can be set until a replica starts and publishes it")
		return
	}
	there, from, err := parsePublic(c.Value)
	if err == nil {
		err = differ(k.key.Public(), there, from)
	}
	if err != nil {
		k.log.Error("secrets that are set from now on can't be opened here", "error", err)
	}
}
