package secrets

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// suite names the algorithms next to what was made with them.
const suite = "DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM"

// These strings are part of the format: what was sealed or derived with another
// text can't be opened.
const (
	deriveInfo = "backstop secrets: HPKE key pair of a key file, version 1"
	sealInfo   = "backstop secrets: webhook signing secret, version 1, of the app "

	derivePrefix = "backstop key for another purpose: "
)

func kem() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

// info binds a sealed secret to its purpose and app, so that one copied to
// another app's entry doesn't open there.
func info(app string) []byte { return []byte(sealInfo + app) }

// Key opens what was sealed for it. It prints as [redacted].
type Key struct {
	private hpke.PrivateKey
	raw     []byte // what the key file holds
}

// newKey derives the key pair of a key file. Deriving, rather than using its
// bytes as they are, leaves room for keys of other purposes in the same file.
func newKey(raw []byte) (*Key, error) {
	seed, err := hkdf.Key(sha256.New, raw, nil, deriveInfo, 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key pair: %w", err)
	}
	private, err := kem().DeriveKeyPair(seed)
	if err != nil {
		return nil, fmt.Errorf("derive the key pair: %w", err)
	}
	return &Key{private: private, raw: raw}, nil
}

// Derive returns a key of 32 bytes for another purpose than sealing secrets,
// the same in every replica that has the key file. Keys of different purposes
// say nothing about each other, nor about the key file.
func (k *Key) Derive(purpose string) []byte {
	derived, err := hkdf.Key(sha256.New, k.raw, nil, derivePrefix+purpose, 32)
	if err != nil {
		panic(err) // for more bytes than HKDF can give; 32 are not
	}
	return derived
}

// Public returns the key that seals for this one.
func (k *Key) Public() PublicKey { return PublicKey{k.private.PublicKey()} }

// errOpen says nothing of the content, or of what was wrong with it.
var errOpen = errors.New("can't be opened with this key file")

// open returns the app's secret that was sealed for k.
func (k *Key) open(app string, sealed []byte) (Secret, error) {
	text, err := hpke.Open(k.private, hpke.HKDFSHA256(), hpke.AES256GCM(), info(app), sealed)
	if err != nil {
		return Secret{}, errOpen
	}
	return New(string(text))
}

// Format implements fmt.Formatter for every verb.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String implements fmt.Stringer.
func (k *Key) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (k *Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler.
func (k *Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// PublicKey seals secrets that only its Key opens.
type PublicKey struct {
	public hpke.PublicKey
}

// Fingerprint tells public keys apart for people: 16 hexadecimal digits.
func (p PublicKey) Fingerprint() string {
	sum := sha256.Sum256(p.public.Bytes())
	return hex.EncodeToString(sum[:8])
}

func (p PublicKey) equal(q PublicKey) bool {
	return string(p.public.Bytes()) == string(q.public.Bytes())
}

func (p PublicKey) seal(app string, s Secret) ([]byte, error) {
	sealed, err := hpke.Seal(p.public, hpke.HKDFSHA256(), hpke.AES256GCM(), info(app), []byte(s.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("seal the secret of %s: %w", app, err)
	}
	return sealed, nil
}
