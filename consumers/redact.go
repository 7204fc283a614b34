package consumers

import (
	"regexp"
	"strings"
	"unicode"

	"backstop/dispatcher"
)

// redacted stands where something was taken out.
const redacted = "[redacted]"

// What an app's answer must not carry into the delivery log: it is kept for a
// day and read by many. Better one word too many than one secret.
var (
	// Signing secrets, ours among them.
	secretWord = regexp.MustCompile(`whsec_[A-Za-z0-9+/=_-]+`)
	// What follows the name of a header or member that holds a credential, and
	// the schemes of Authorization wherever they are.
	secretMember = regexp.MustCompile(`(?i)((?:authorization|cookie|x-api-key|api[_-]?key|access[_-]?token|refresh[_-]?token|id[_-]?token|token|secret|client[_-]?secret|password|passwd|pwd|session(?:[_-]?id)?)["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|'[^']*'?|(?:(?:bearer|basic|digest)\s+)?[^\s,;&}\]]+)`)
	secretScheme = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}`)
	// Long runs of base64 or hex: tokens, keys, signatures. JSON Web Tokens
	// are three of them with dots between.
	secretRun = regexp.MustCompile(`[A-Za-z0-9+/_=-]{20,}(?:\.[A-Za-z0-9+/_=-]+)*`)
	// The beginning of either, at the end of what was kept.
	cutSecret = regexp.MustCompile(`(?:[A-Za-z0-9+/_=-]{12,}|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]*)$`)
	// People.
	emailAddress = regexp.MustCompile(`[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+`)
)

// redact returns an app's text in a form that can be kept and shown: valid
// UTF-8 on one line, without control and invisible characters, and without what
// looks like a secret or an e-mail address.
func redact(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r): // controls, and formats such as a change of direction
			return -1
		}
		return r
	}, text)
	text = secretWord.ReplaceAllString(text, redacted)
	text = secretMember.ReplaceAllString(text, "${1}"+redacted)
	text = secretScheme.ReplaceAllString(text, "${1} "+redacted)
	text = emailAddress.ReplaceAllString(text, redacted)
	text = secretRun.ReplaceAllStringFunc(text, func(run string) string {
		if isWord(run) {
			return run
		}
		return redacted
	})
	return strings.TrimSpace(text)
}

// isWord tells a long word, or words joined by underscores, from a token: it
// has no digits, and letters of one case but for the first.
func isWord(run string) bool {
	rest := run[1:]
	return len(run) <= 64 && !strings.ContainsAny(run, "0123456789+/=.") &&
		(strings.ToLower(rest) == rest || strings.ToUpper(rest) == rest)
}

// redactAnswer returns the first bytes of an answer, redacted. What was cut off
// may have been a secret whose beginning is too short to be told from a word.
func redactAnswer(first []byte) string {
	text := redact(string(first))
	if len(first) >= dispatcher.MaxLoggedBody {
		text = cutSecret.ReplaceAllString(text, redacted)
	}
	return text
}
