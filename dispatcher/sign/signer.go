package sign

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"sync"
	"time"
)

// ErrNoSecret says that there is nothing to sign with.
var ErrNoSecret = errors.New("the app has no signing secret; make one with: backstop apps rotate-secret APP")

// maxKeys bounds the prepared keys that a Signer keeps, about 1.5 KB each.
const maxKeys = 8192

// Signer signs requests. It keeps the keys of recent secrets ready, and is
// safe for concurrent use.
type Signer struct {
	mu   sync.RWMutex
	keys map[string]*key
}

// NewSigner returns a Signer.
func NewSigner() *Signer { return &Signer{keys: make(map[string]*key)} }

// Sign passes the four signature headers of a request to set. secrets are the
// active ones, newest first: webhook-signature carries a signature of each,
// X-Platform-Signature, which has room for one only, the newest's. The error
// is ErrNoSecret or ErrSecret, and set was not called then.
func (s *Signer) Sign(set func(header, value string), id string, t time.Time, body []byte, secrets []string) error {
	if len(secrets) == 0 {
		return ErrNoSecret
	}
	// 48 bytes a signature: two of them, as during a rotation, fit in.
	signatures := make([]byte, 0, 96)
	var platform []byte
	for i, secret := range secrets {
		k, err := s.key(secret)
		if err != nil {
			return err
		}
		if i == 0 {
			var sum [sha256.Size]byte
			platform = append(make([]byte, 0, len(platformPrefix)+2*len(sum)), platformPrefix...)
			platform = hex.AppendEncode(platform, k.platformSum(sum[:0], body))
		} else {
			signatures = append(signatures, ' ')
		}
		signatures = k.appendStandard(signatures, id, t, body)
	}
	set(HeaderID, id)
	set(HeaderTimestamp, strconv.FormatInt(t.Unix(), 10))
	set(HeaderSignature, string(signatures))
	set(HeaderPlatform, string(platform))
	return nil
}

func (s *Signer) key(secret string) (*key, error) {
	s.mu.RLock()
	k := s.keys[secret]
	s.mu.RUnlock()
	if k != nil {
		return k, nil
	}
	k, err := newKey(secret)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) >= maxKeys {
		// Forgetting all of them is as good as a clever order of eviction:
		// making them again costs 2 µs each.
		clear(s.keys)
	}
	s.keys[secret] = k
	return k, nil
}
