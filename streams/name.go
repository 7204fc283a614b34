package streams

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// MaxNameLength is the most bytes an app's or a capability's name may have.
const MaxNameLength = 64

// MaxIDLength is the most bytes an event's id may have.
const MaxIDLength = 64

// NamePattern is what app and capability names match: one NATS subject token
// each, safe in a URL, a file name and a consumer name as well.
const NamePattern = `^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`

// ValidName tells whether s may name an app or a capability (NamePattern).
// Written out rather than as a regexp because it runs once for each event.
func ValidName(s string) bool {
	return len(s) <= MaxNameLength && s != "" && alphanumeric(s[0]) && inIDAlphabet(s)
}

// CheckName returns nil for a name that ValidName accepts, and otherwise an
// error that says what would be right; kind is "app" or "capability".
func CheckName(kind, s string) error {
	if ValidName(s) {
		return nil
	}
	return fmt.Errorf("%q can't be the name of %s %s: use 1 to %d letters, digits, '_' or '-', starting with a letter or digit",
		s, article(kind), kind, MaxNameLength)
}

// ValidID tells whether s may be an event's id as it stands: 1 to 64 bytes of
// [A-Za-z0-9_-]. Ids outside that alphabet are replaced by a hash; see Decode.
func ValidID(s string) bool {
	return s != "" && len(s) <= MaxIDLength && inIDAlphabet(s)
}

// IDOf returns the id that a given one stands for: itself, or a hash of it when
// it is outside the alphabet of ValidID, the same each time. It must not be empty.
func IDOf(given string) string {
	if ValidID(given) {
		return given
	}
	sum := sha256.Sum256([]byte(given))
	return hex.EncodeToString(sum[:16])
}

// CheckID returns nil for an id that ValidID accepts, and otherwise an error
// that says what would be right.
func CheckID(s string) error {
	if ValidID(s) {
		return nil
	}
	return fmt.Errorf("%q can't be an event's id: use 1 to %d letters, digits, '_' or '-'", s, MaxIDLength)
}

func inIDAlphabet(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func article(noun string) string {
	if strings.ContainsAny(noun[:1], "aeiou") {
		return "an"
	}
	return "a"
}
