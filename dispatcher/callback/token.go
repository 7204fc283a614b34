// Package callback makes and reads the tokens in callback URLs. A token is the
// permission to answer one event or call of one endpoint, once, until it
// expires. It holds all that is needed to take the answer, so that nothing is
// stored when one is made, and any replica with the same key reads it:
//
//	base64url( version | expiry | capability | app | origin | id | tag )
//
// The tag is the HMAC-SHA256 of what is before it, cut to 128 bits. A token
// hides nothing: it is for the app that the event went to.
package callback

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"
	"time"
)

// Validity is how long a token can be used, unless its Issuer is told otherwise.
const Validity = 24 * time.Hour

// Purpose names the key that issuers are made with, for deriving it from a
// replica's master key. It is part of the format.
const Purpose = "callback tokens, version 1"

// What is wrong with a token. None of them holds any of it.
var (
	// ErrCut: it is not a whole token; a part was lost on the way.
	ErrCut = errors.New("the token is not whole; use the callback URL exactly as it came")
	// ErrWrong: it was changed, or made with another key.
	ErrWrong = errors.New("the token is not one that was issued here")
	// ErrExpired: it was right, and its time is over.
	ErrExpired = errors.New("the token has expired")
)

// Grant is what a token permits: to answer this event or call.
type Grant struct {
	// ID is what the app sees as X-Request-ID.
	ID string
	// Origin names the accepted publish, or the call, that is answered. Two
	// tokens of one origin, as those of two attempts, are the same permission.
	Origin string
	// Capability and App name the endpoint.
	Capability, App string
	// Awaited says that the manifest demands the answer within a time.
	Awaited bool
	// Expires is when the permission ends, in whole seconds. Issue sets it.
	Expires time.Time
}

// The format. Each of the four texts comes with a byte that is its length.
const (
	version   = 1
	awaited   = 0x80 // beside the version
	headSize  = 1 + 8
	tagSize   = 16
	maxText   = 64 // as long as a name or an id may be
	maxOrigin = 96 // that of an approved call: "approved-", its id, and nanoseconds
	maxRaw    = headSize + 3*(1+maxText) + (1 + maxOrigin) + tagSize
)

// MaxLength is the most characters that a token has. Most have less than half.
const MaxLength = (maxRaw*8 + 5) / 6

// encoding is strict: no two texts stand for the same token.
var encoding = base64.RawURLEncoding.Strict()

// Issuer makes and reads tokens. It is safe for concurrent use.
type Issuer struct {
	key      []byte
	validity time.Duration
	free     sync.Pool // of *mac
}

// mac is an HMAC with room for what goes in and what comes out.
type mac struct {
	hash.Hash
	raw, out []byte
}

// NewIssuer returns an Issuer with the given key, which all replicas share.
// Zero validity means Validity.
func NewIssuer(key []byte, validity time.Duration) *Issuer {
	if validity <= 0 {
		validity = Validity
	}
	return &Issuer{key: key, validity: validity}
}

func (i *Issuer) mac() *mac {
	if m, ok := i.free.Get().(*mac); ok {
		return m
	}
	return &mac{Hash: hmac.New(sha256.New, i.key), raw: make([]byte, 0, maxRaw)}
}

// tag returns the tag of data, until m is used again.
func (m *mac) tag(data []byte) []byte {
	m.Reset()
	m.Write(data) // a hash never returns an error
	m.out = m.Sum(m.out[:0])
	return m.out[:tagSize]
}

// Append appends the token of a grant to dst. False means that there is none
// for it, as one of its texts is longer than a name or an id can be.
func (i *Issuer) Append(dst []byte, g Grant, now time.Time) ([]byte, bool) {
	if max(len(g.ID), len(g.Capability), len(g.App)) > maxText || len(g.Origin) > maxOrigin {
		return dst, false
	}
	m := i.mac()
	defer i.free.Put(m)
	first := byte(version)
	if g.Awaited {
		first |= awaited
	}
	m.raw = append(m.raw[:0], first)
	m.raw = binary.BigEndian.AppendUint64(m.raw, uint64(now.Add(i.validity).Unix())) //nolint:gosec // read back as it was
	for _, text := range [...]string{g.Capability, g.App, g.Origin, g.ID} {
		m.raw = append(append(m.raw, byte(len(text))), text...) //nolint:gosec // at most maxText
	}
	m.raw = append(m.raw, m.tag(m.raw)...)
	return encoding.AppendEncode(dst, m.raw), true
}

// Read returns what a token permits now. The error is ErrCut, ErrWrong or
// ErrExpired; of the last, the grant is right in all else.
func (i *Issuer) Read(token string, now time.Time) (Grant, error) {
	// The decoder would skip line breaks.
	if len(token) > MaxLength || strings.ContainsAny(token, "\r\n") {
		return Grant{}, ErrCut
	}
	raw, err := encoding.DecodeString(token)
	if err != nil {
		return Grant{}, ErrCut
	}
	g, err := parse(raw)
	if err != nil {
		return Grant{}, err
	}
	m := i.mac()
	defer i.free.Put(m)
	body, tag := raw[:len(raw)-tagSize], raw[len(raw)-tagSize:]
	switch {
	case !hmac.Equal(tag, m.tag(body)):
		return Grant{}, ErrWrong
	case !now.Before(g.Expires):
		return g, fmt.Errorf("%w: it was good until %s", ErrExpired, g.Expires.UTC().Format(time.RFC3339))
	}
	return g, nil
}

// parse reads a token's parts, whoever made it: only its tag says whether they
// can be believed.
func parse(raw []byte) (Grant, error) {
	if len(raw) < headSize+tagSize {
		return Grant{}, ErrCut
	}
	if raw[0]&^awaited != version {
		return Grant{}, ErrWrong
	}
	seconds := int64(binary.BigEndian.Uint64(raw[1:])) //nolint:gosec // as Append wrote it
	g := Grant{Awaited: raw[0]&awaited != 0, Expires: time.Unix(seconds, 0)}
	rest := raw[headSize : len(raw)-tagSize]
	for _, text := range [...]*string{&g.Capability, &g.App, &g.Origin, &g.ID} {
		if len(rest) == 0 || len(rest) <= int(rest[0]) {
			return Grant{}, ErrCut
		}
		n := 1 + int(rest[0])
		*text, rest = string(rest[1:n]), rest[n:]
	}
	if len(rest) > 0 {
		return Grant{}, ErrCut
	}
	return g, nil
}
