package dispatcher

import (
	"net/http"
	"strings"
)

// headerWriter sets headers of one value each, with one allocation for all.
// Names are in canonical form.
type headerWriter struct {
	h      http.Header
	values []string
}

func (w *headerWriter) set(name, value string) {
	n := len(w.values)
	w.values = append(w.values, value)
	w.h[name] = w.values[n : n+1 : n+1]
}

// addOwn adds a header of the endpoint's own to h, unless it is one that
// Backstop sets, or one that changes how the request is sent.
func addOwn(h http.Header, name, value string) {
	name = http.CanonicalHeaderKey(name)
	if _, taken := h[name]; taken || reserved(name) || !validName(name) || !validValue(value) {
		return
	}
	h[name] = []string{value}
}

// reserved tells whether an endpoint's own headers may not set this one, in
// canonical form.
func reserved(name string) bool {
	switch name {
	case "Content-Type", "User-Agent", "X-Request-Id", "X-Timeout-Ms", "X-Callback-Url", "Traceparent", "Tracestate":
		return true // Backstop's own, sent or not
	case "Accept-Encoding", "Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true // how bytes are framed and connections used is not an app's to say
	case "Idempotency-Key", "X-Idempotency-Key":
		return true // net/http would send the request again on a connection that broke
	default:
		return strings.HasPrefix(name, "X-Platform-") || strings.HasPrefix(name, "Webhook-") || strings.HasPrefix(name, "Proxy-")
	}
}

// validName tells whether s is a token of RFC 9110, as header names are.
func validName(s string) bool {
	const symbols = "!#$%&'*+-.^_`|~"
	for i := range len(s) {
		c := s[i]
		letter, digit := 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9'
		if !letter && !digit && strings.IndexByte(symbols, c) < 0 {
			return false
		}
	}
	return s != ""
}

// validValue tells whether s can be sent as a header's value.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
