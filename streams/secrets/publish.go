package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/bucket"
)

// PublicKeyName is the bucket's key that holds the public key. No app can have
// this name: names of apps have no dot.
const PublicKeyName = "public.key"

// published is the value of PublicKeyName.
type published struct {
	Suite       string    `json:"suite"`
	Public      []byte    `json:"public"`
	Fingerprint string    `json:"fingerprint"` // for people; Public counts
	Host        string    `json:"host,omitempty"`
	Published   time.Time `json:"published"`
}

// ErrNoPublicKey says that no pipeline has published its public key yet.
var ErrNoPublicKey = errors.New("the bucket secrets has no public key yet; start `backstop serve` once, which publishes it")

// ErrOtherKey says that the bucket's secrets are sealed for another key file.
var ErrOtherKey = errors.New("the secrets are sealed for another key file")

// Publish puts the key's public half into kv, the secrets bucket, for those
// that seal. If it is there already, that is fine; if another one is, the
// secrets in the bucket can't be opened by k, and Publish returns ErrOtherKey.
func Publish(ctx context.Context, kv jetstream.KeyValue, k *Key) error {
	public := k.Public()
	host, _ := os.Hostname() // only tells people where to look
	value, err := json.MarshalIndent(published{
		Suite: suite, Public: public.public.Bytes(), Fingerprint: public.Fingerprint(), Host: host, Published: time.Now().UTC(),
	}, "", "  ")
	if err != nil {
		return err
	}
	_, _, err = bucket.Swap(ctx, kv, PublicKeyName, func(old []byte) ([]byte, error) {
		if len(old) == 0 {
			return value, nil
		}
		there, from, err := parsePublic(old)
		if err != nil {
			return nil, err
		}
		return old, differ(public, there, from)
	})
	return err
}

// differ returns ErrOtherKey, with what to do, unless the keys are the same.
func differ(own, there PublicKey, from published) error {
	if own.equal(there) {
		return nil
	}
	return fmt.Errorf("%w: the bucket has the public key %s (from host %q, %s), this key file makes %s; "+
		"copy secrets.key from that host, or, if it is lost, stop every replica, run nats kv del secrets %s, start again, and rotate every app's secret",
		ErrOtherKey, there.Fingerprint(), from.Host, from.Published.Format(time.RFC3339), own.Fingerprint(), PublicKeyName)
}

// publicKey reads the bucket's public key.
func publicKey(ctx context.Context, kv jetstream.KeyValue) (PublicKey, error) {
	value, revision, err := bucket.Read(ctx, kv, PublicKeyName)
	switch {
	case err != nil:
		return PublicKey{}, err
	case revision == 0:
		return PublicKey{}, ErrNoPublicKey
	}
	key, _, err := parsePublic(value)
	return key, err
}

func parsePublic(value []byte) (PublicKey, published, error) {
	unusable := func(err error) error {
		return fmt.Errorf("the bucket's public key can't be used: %w; stop every replica, run nats kv del secrets %s, and start again with the same secrets.key",
			err, PublicKeyName)
	}
	var p published
	if err := json.Unmarshal(value, &p); err != nil {
		return PublicKey{}, p, unusable(err)
	}
	if p.Suite != suite {
		return PublicKey{}, p, unusable(fmt.Errorf("it is for %q, and this version knows %q", p.Suite, suite))
	}
	public, err := kem().NewPublicKey(p.Public)
	if err != nil {
		return PublicKey{}, p, unusable(err)
	}
	return PublicKey{public}, p, nil
}
