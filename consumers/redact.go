package consumers

import (
	"regexp"
	"slices"
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
	secretWord = regexp.MustCompile(`(?i)whsec_[A-Za-z0-9+/=_-]+`)
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
	// An expression takes 20 µs where a look for what it needs takes one.
	lower := strings.ToLower(text)
	if strings.Contains(lower, "whsec_") {
		text = secretWord.ReplaceAllString(text, redacted)
	}
	if containsAny(lower, "authorization", "cookie", "key", "token", "secret", "pass", "pwd", "session") {
		text = secretMember.ReplaceAllString(text, "${1}"+redacted)
	}
	if containsAny(lower, "bearer", "basic") {
		text = secretScheme.ReplaceAllString(text, "${1} "+redacted)
	}
	if strings.Contains(text, "@") {
		text = emailAddress.ReplaceAllString(text, redacted)
	}
	if hasRun(text, shortestRun) {
		text = secretRun.ReplaceAllStringFunc(text, func(run string) string {
			if isWord(run) {
				return run
			}
			return redacted
		})
	}
	return strings.TrimSpace(text)
}

func containsAny(text string, words ...string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
}

// shortestRun is from how many characters on base64 or hex is taken for a
// secret; see secretRun.
const shortestRun = 20

// hasRun tells whether the text has n characters of base64 or hex in a row.
func hasRun(text string, n int) bool {
	run := 0
	for i := range len(text) {
		c := text[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("+/_=-", c) >= 0 {
			if run++; run >= n {
				return true
			}
		} else {
			run = 0
		}
	}
	return false
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
