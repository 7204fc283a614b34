package streams

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// particular is what differs between two errors of one cause: quoted text,
// addresses and ids, durations and other numbers.
var particular = regexp.MustCompile(`"[^"]*"|\b[0-9a-fA-F]{8,}\b|[0-9][0-9.:]*`)

// SameError returns the dead letter's error without what is particular to this
// one: of the same cause at another event it is the same text. An HTTP status
// stays as it is.
func (d DeadLetter) SameError() string {
	status := ""
	if d.Status != 0 {
		status = fmt.Sprint(d.Status)
	}
	text := particular.ReplaceAllStringFunc(d.Err, func(s string) string {
		if s == status && status != "" {
			return s
		}
		return "#"
	})
	return strings.Join(strings.Fields(text), " ")
}

// Fingerprint is the same for dead letters that were given up for the same
// reason after the same error at any endpoint: eight hexadecimal digits.
func (d DeadLetter) Fingerprint() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%s", d.Reason, d.Status, d.SameError()))
	return hex.EncodeToString(sum[:4])
}
