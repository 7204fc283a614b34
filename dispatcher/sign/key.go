package sign

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"strconv"
	"strings"
	"sync"
	"time"
)

// SecretPrefix starts every secret, so that one is recognised where it should
// not be, as in a log or a repository.
const SecretPrefix = "whsec_"

// ErrSecret says that a string is not a secret. It never holds the string.
var ErrSecret = errors.New(`not a signing secret: it has to be "` + SecretPrefix + `" followed by base64; copy it again from where it was shown`)

// CheckSecret tells whether a string can be signed with: nil, or ErrSecret.
func CheckSecret(secret string) error {
	_, err := decode(secret)
	return err
}

func decode(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, SecretPrefix)
	if !ok || encoded == "" {
		return nil, ErrSecret
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, ErrSecret // err quotes a part of the secret's shape; nobody needs it
	}
	return raw, nil
}

// key is a secret made ready. Preparing an HMAC costs as much as signing a
// small body, so prepared ones are kept and reset.
type key struct {
	standard, platform macs
}

// macs are HMACs of one key.
type macs struct {
	key  []byte
	free sync.Pool // of *mac
}

// mac is an HMAC with room for what goes in and what comes out.
type mac struct {
	hash.Hash
	in, out []byte
}

func (m *macs) get() *mac {
	if free, ok := m.free.Get().(*mac); ok {
		return free
	}
	return &mac{Hash: hmac.New(sha256.New, m.key)}
}

func newKey(secret string) (*key, error) {
	raw, err := decode(secret)
	if err != nil {
		return nil, err
	}
	return &key{standard: macs{key: raw}, platform: macs{key: []byte(secret)}}, nil
}

// appendStandard appends the Standard Webhooks signature with its version.
func (k *key) appendStandard(dst []byte, id string, t time.Time, body []byte) []byte {
	m := k.standard.get()
	defer k.standard.free.Put(m)
	m.in = append(append(m.in[:0], id...), '.')
	m.in = append(strconv.AppendInt(m.in, t.Unix(), 10), '.')
	dst = append(dst, version...)
	return base64.StdEncoding.AppendEncode(dst, m.sum(m.in, body))
}

// platformSum returns the HMAC of X-Platform-Signature, appended to dst.
func (k *key) platformSum(dst, body []byte) []byte {
	m := k.platform.get()
	defer k.platform.free.Put(m)
	return append(dst, m.sum(nil, body)...)
}

func (m *mac) sum(head, body []byte) []byte {
	m.Reset()
	m.Write(head) // a hash never returns an error
	m.Write(body)
	m.out = m.Sum(m.out[:0])
	return m.out
}
