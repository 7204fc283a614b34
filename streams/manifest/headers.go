package manifest

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// headers reads the extra request headers of a webhook.
func (r *reader) headers(at string, n node) map[string]string {
	if !r.is(at, n, isObject, `an object such as {"X-Tenant": "a"}`) {
		return nil
	}
	if len(n.members) > maxHeaders {
		r.add(at, "has %d entries; at most %d are allowed", len(n.members), maxHeaders)
		return nil
	}
	var headers map[string]string
	spelling := make(map[string]string)
	r.members(at, n, func(at, name string, v node) {
		if problem := checkHeaderName(name); problem != "" {
			r.add(at, "%s", problem)
		}
		canonical := http.CanonicalHeaderKey(name)
		if other, twice := spelling[canonical]; twice {
			r.add(at, "is the same header as %s; keep one", quote(other))
		}
		spelling[canonical] = name
		var value string
		r.text(&value, "a text", checkHeaderValue)(at, v)
		if headers == nil {
			headers = make(map[string]string)
		}
		headers[name] = value
	})
	return headers
}

// headerName is a token of RFC 9110.
var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")

func checkHeaderName(name string) string {
	if !headerName.MatchString(name) {
		return fmt.Sprintf("%s can't be the name of a header: use 1 to %d letters, digits or '-'", quote(name), maxHeaderName)
	}
	lower := strings.ToLower(name)
	if why := reserved(lower); why != "" {
		return quote(name) + " can't be set: " + why
	}
	return ""
}

// reserved says why a header (in lower case) isn't the app's to set, or "".
func reserved(lower string) string {
	for _, prefix := range []string{"content-", "x-platform-", "webhook-"} {
		if strings.HasPrefix(lower, prefix) {
			return "every header " + http.CanonicalHeaderKey(prefix) + "… is Backstop's own"
		}
	}
	switch lower {
	case "host", "user-agent", "x-request-id", "x-timeout-ms", "x-callback-url", "traceparent", "tracestate":
		return "it is Backstop's own"
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
		"te", "trailer", "transfer-encoding", "upgrade", "http2-settings":
		return "it belongs to the connection and not to the request"
	case "expect":
		return "the request is sent whole, without asking first"
	case "accept-encoding":
		return "answers are never compressed"
	case "idempotency-key", "x-idempotency-key":
		// With either of them Go's HTTP client believes that it may send a
		// POST again by itself when a connection dies.
		return "X-Request-ID is the same on every attempt; use that"
	default:
		return ""
	}
}

func checkHeaderValue(s string) string {
	switch {
	case len(s) > maxHeaderValue:
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), maxHeaderValue)
	case strings.ContainsFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c >= 0x7f }):
		return "holds a character that a header can't; use printable ASCII"
	case strings.Trim(s, " \t") != s:
		return "starts or ends with white space, which is lost on the way; take it out"
	default:
		return ""
	}
}
