package secrets

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Prefix starts every secret, so that people and scanners recognise one.
const Prefix = "whsec_"

// Bytes of a secret: what Generate makes, and what Standard Webhooks allows.
const (
	size    = 32
	minSize = 24
	maxSize = 64
)

// redacted is what a secret prints as.
const redacted = "[redacted]"

// Secret is a signing secret in memory: "whsec_" and the base64 of its bytes.
// However it is printed, logged or marshalled, it shows as [redacted]; only
// Reveal gives it away. The zero Secret is none. Compare secrets with Equal.
type Secret struct {
	// A pointer, because fmt prints unexported fields of the structs around
	// it without asking their methods, and of a pointer only the address.
	text *string
}

// Generate returns a new secret of 32 random bytes.
func Generate() Secret {
	raw := make([]byte, size)
	rand.Read(raw) // never fails
	text := Prefix + base64.StdEncoding.EncodeToString(raw)
	return Secret{&text}
}

// New returns the secret that s spells, or what Check says of it.
func New(s string) (Secret, error) {
	if err := Check(s); err != nil {
		return Secret{}, err
	}
	return Secret{&s}, nil
}

// Check tells whether s can be a secret: "whsec_" and the standard base64 of
// 24 to 64 bytes, as Standard Webhooks has it. The error says what would be
// right, and nothing of s.
func Check(s string) error {
	const right = `a secret is "whsec_" followed by the base64 of 24 to 64 random bytes (make one: backstop apps rotate-secret)`
	encoded, ok := strings.CutPrefix(s, Prefix)
	if !ok {
		return errors.New(`the secret does not start with "whsec_"; ` + right)
	}
	// The decoder skips line breaks; the HMAC of the text would not.
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || strings.ContainsAny(encoded, "\r\n") {
		return errors.New("the secret is not standard base64 with padding; " + right)
	}
	if len(raw) < minSize || len(raw) > maxSize {
		return fmt.Errorf("the secret has %d bytes; %s", len(raw), right)
	}
	return nil
}

// Reveal returns the secret's text. Don't print it.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero tells whether there is no secret.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal compares in a time that tells nothing of the secrets but their length.
func (s Secret) Equal(t Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(t.Reveal())) == 1
}

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String implements fmt.Stringer, for those that call it themselves.
func (s Secret) String() string { return redacted }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so JSON and XML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
