package sign

import (
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What Verify and VerifyPlatform find wrong with a request.
var (
	ErrNoSignature = errors.New("the request is not signed")
	ErrTimestamp   = errors.New("the request's time is not acceptable")
	ErrMismatch    = errors.New("no signature matches: the body was changed on the way (verify the bytes as received, before parsing), or the secret is another one")
)

// Verify checks a request's Standard Webhooks signature as a receiver should:
// a signature of any of the secrets over exactly this body, made within
// Tolerance of now. nil means that the request is from whoever has the secret.
// The error is ErrNoSignature, ErrTimestamp, ErrMismatch or ErrSecret.
//
// A receiver that must not act twice also remembers the webhook-id for
// Tolerance; Backstop sends the same id again when it has to try again.
func Verify(h http.Header, body []byte, now time.Time, secrets ...string) error {
	id, stamp, given := h.Get(HeaderID), h.Get(HeaderTimestamp), h.Get(HeaderSignature)
	if id == "" || stamp == "" || given == "" {
		return fmt.Errorf("%w: it needs webhook-id, webhook-timestamp and webhook-signature", ErrNoSignature)
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: webhook-timestamp is not a whole number of seconds", ErrTimestamp)
	}
	made := time.Unix(seconds, 0)
	if age := now.Sub(made); age > Tolerance || age < -Tolerance {
		return fmt.Errorf("%w: it is %v off, at most %v is accepted; check both clocks", ErrTimestamp, age.Round(time.Second), Tolerance)
	}
	return anyKey(secrets, func(k *key) bool {
		want := k.appendStandard(nil, id, made, body)
		for one := range strings.SplitSeq(given, " ") {
			if hmac.Equal([]byte(one), want) {
				return true
			}
		}
		return false
	})
}

// VerifyPlatform checks a request's X-Platform-Signature, which binds the body
// alone: it says nothing about when the request was made. The error is
// ErrNoSignature, ErrMismatch or ErrSecret.
func VerifyPlatform(h http.Header, body []byte, secrets ...string) error {
	given := h.Get(HeaderPlatform)
	if given == "" {
		return fmt.Errorf("%w: it needs %s", ErrNoSignature, HeaderPlatform)
	}
	sum, err := hex.DecodeString(strings.TrimPrefix(given, platformPrefix))
	if err != nil || !strings.HasPrefix(given, platformPrefix) {
		return fmt.Errorf("%w: %s is not %s and hex", ErrMismatch, HeaderPlatform, platformPrefix)
	}
	return anyKey(secrets, func(k *key) bool { return hmac.Equal(sum, k.platformSum(nil, body)) })
}

// anyKey returns nil if match holds for one of the secrets' keys.
func anyKey(secrets []string, match func(*key) bool) error {
	for _, secret := range secrets {
		k, err := newKey(secret)
		if err != nil {
			return err
		}
		if match(k) {
			return nil
		}
	}
	return ErrMismatch
}
