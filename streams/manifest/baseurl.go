package manifest

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// baseURL reads baseUrl. It can be wrong in several ways at once, and each is
// a problem of its own. Messages never repeat the URL: it may hold a password.
func (r *reader) baseURL(dst *string) field {
	return func(at string, n node) {
		if !r.is(at, n, isString, "a URL such as https://quiz.example.com") {
			return
		}
		wrong := r.opt.checkBaseURL(n.text)
		for _, w := range wrong {
			r.add(at, "%s", w)
		}
		if len(wrong) == 0 {
			*dst = n.text
		}
	}
}

func (o Options) checkBaseURL(s string) []string {
	switch {
	case s == "":
		return []string{"is empty; give the URL where the app lives, such as https://quiz.example.com"}
	case len(s) > maxURL:
		return []string{fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), maxURL)}
	case strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '\\' }):
		return []string{`must be plain ASCII without spaces or '\'; write a host name in its xn-- form and percent-encode the path`}
	}
	u, err := url.Parse(s)
	if err != nil { // which would show the URL
		return []string{"is not a URL; write it as https://host, https://host:port or https://host/path"}
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		if u.Scheme == "" {
			return []string{"must be absolute: start with https:// or http://"}
		}
		return []string{quote(u.Scheme+":") + " can't be called; use https:// or http://"}
	}
	if u.Opaque != "" || u.Hostname() == "" {
		return []string{"has no host; write it as " + u.Scheme + "://host/path"}
	}
	return o.checkParts(u, s)
}

// checkParts judges the parts of a URL that is http or https with a host.
func (o Options) checkParts(u *url.URL, s string) []string {
	var wrong []string
	if u.User != nil {
		wrong = append(wrong, "must not hold a user name or password; the app knows Backstop by the signature of its requests")
	}
	if u.RawQuery != "" || u.ForceQuery {
		wrong = append(wrong, "must not have a query (?…); put it into the webhook's path")
	}
	if strings.Contains(s, "#") {
		wrong = append(wrong, "must not have a fragment (#…)")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			wrong = append(wrong, "has a port that can't be; use 1 to 65535, or none")
		}
	}
	if w := o.checkHost(u.Hostname()); w != "" {
		wrong = append(wrong, w)
	}
	if w := checkPath(pathOf(s)); w != "" {
		wrong = append(wrong, "its path "+w)
	}
	return wrong
}

// pathOf returns the path of an absolute URL as it is written, "/" for none.
func pathOf(s string) string {
	_, s, _ = strings.Cut(s, "://")
	s, _, _ = strings.Cut(s, "#")
	s, _, _ = strings.Cut(s, "?")
	if i := strings.IndexByte(s, '/'); i >= 0 {
		return s[i:]
	}
	return "/"
}

// hostPattern is a DNS name. Underscores aren't allowed in host names, but are
// used for them in private networks.
var hostPattern = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,62})\.)*[A-Za-z0-9_][A-Za-z0-9_-]{0,62}\.?$`)

// numericLabel is a last label that makes some resolvers read the whole host
// as an IPv4 address: 127.1, 0x7f.1, 2130706433.
var numericLabel = regexp.MustCompile(`(^|\.)([0-9]+|0[xX][0-9A-Fa-f]*)\.?$`)

func (o Options) checkHost(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "must not name a zone (%…) in its address"
		}
		return o.checkAddr(addr)
	}
	switch name := strings.ToLower(strings.TrimSuffix(host, ".")); {
	case len(host) > 253 || !hostPattern.MatchString(host):
		return quote(host) + " is not a host name"
	case numericLabel.MatchString(host):
		return quote(host) + " looks like an address and is none; write IPv4 as four decimal numbers, such as 192.0.2.1"
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		return o.checkLocalhost(name)
	default:
		return ""
	}
}

// pathPattern is a path with an optional query, percent-encoded: what Go sends
// as it stands. "//" at its start would be read as a host elsewhere.
var pathPattern = regexp.MustCompile(`^/(([A-Za-z0-9._~!$&'()*+,;=:@?-]|%[0-9A-Fa-f]{2})([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?$`)

// dotSegment is a "." or ".." between slashes, in any spelling.
var dotSegment = regexp.MustCompile(`^[^?]*/(\.|%2[Ee]){1,2}(/|\?|$)`)

func checkPath(s string) string {
	switch {
	case len(s) > maxPath:
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), maxPath)
	case !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//"):
		return `must start with one "/" and hold no host: it is appended to baseUrl`
	case strings.Contains(s, "#"):
		return "must not have a fragment (#…)"
	case dotSegment.MatchString(s):
		return `must not hold "." or ".." between slashes; write the path that is meant`
	case !pathPattern.MatchString(s):
		return "holds a character that a URL can't; percent-encode it (a space is %20)"
	default:
		return ""
	}
}
