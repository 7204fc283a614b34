package manifest

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"backstop/streams"
)

// Options are what Parse can't know from the manifest.
type Options struct {
	// AllowedNetworks are networks beside the public internet that a baseUrl
	// may name by address: BACKSTOP_ALLOWED_NETWORKS.
	AllowedNetworks []netip.Prefix

	// anyAddress leaves the judgement of addresses to the dialler: for what
	// is stored already, since the operator may have changed the networks.
	anyAddress bool
}

// Parse reads a manifest and checks it against the contract. Its error is
// Problems: every mistake at once. The rules are those of Schema, and these,
// which a schema can't express: no field twice in an object, no two headers
// that differ by case alone, initialDelay at most maxDelay, a baseUrl whose
// port is one and whose host is well-formed and isn't a forbidden address, at
// most MaxSize bytes of UTF-8, at most 64 levels deep.
// Host names are judged when they are dialled, since what they stand for changes.
func Parse(data []byte, opt Options) (Manifest, error) {
	root, err := decode(data)
	if err != nil {
		return Manifest{}, err
	}
	r := &reader{opt: opt}
	m := r.manifest(root)
	if err := r.err(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

func (r *reader) manifest(n node) Manifest {
	var m Manifest
	r.object("", n, "a JSON object", fields{
		"$schema":  r.text(&m.Schema, "the schema's address", checkSchemaURL),
		"appId":    r.text(&m.AppID, "a name", func(s string) string { return checkName("app", s) }),
		"name":     r.text(&m.Name, "a text", checkTitle),
		"baseUrl":  r.baseURL(&m.BaseURL),
		"health":   func(at string, n node) { m.Health = &Health{Path: r.onlyPath(at, n)} },
		"metrics":  func(at string, n node) { m.Metrics = &Metrics{Path: r.onlyPath(at, n)} },
		"webhooks": func(at string, n node) { m.Webhooks = r.webhooks(at, n) },
	}, "appId", "baseUrl", "webhooks")
	return m
}

func (r *reader) onlyPath(at string, n node) (path string) {
	r.object(at, n, `an object such as {"path": "/health"}`, fields{"path": r.text(&path, "a path", checkPath)}, "path")
	return path
}

func (r *reader) webhooks(at string, n node) map[string]Webhook {
	if !r.is(at, n, isObject, "an object with one entry for each capability") {
		return nil
	}
	switch {
	case len(n.members) == 0:
		r.add(at, "is empty; declare at least one webhook, by the capability that it is for")
	case len(n.members) > maxWebhooks:
		r.add(at, "has %d entries; at most %d are allowed", len(n.members), maxWebhooks)
		return nil
	}
	webhooks := make(map[string]Webhook, len(n.members))
	r.members(at, n, func(at, name string, v node) {
		if problem := checkName("capability", name); problem != "" {
			r.add(at, "%s", problem)
		}
		webhooks[name] = r.webhook(at, v, name)
	})
	return webhooks
}

func (r *reader) webhook(at string, n node, name string) Webhook {
	var w Webhook
	var timeout *node
	ms := func(least, most float64) bounds { return bounds{least: least, most: most, unit: " ms"} }
	r.object(at, n, `an object such as {"path": "/webhook"}`, fields{
		"path":        r.text(&w.Path, "a path", checkPath),
		"async":       r.boolean(&w.Async),
		"timeout":     func(_ string, n node) { timeout = &n },
		"retry":       func(at string, n node) { w.Retry = r.retry(at, n) },
		"breaker":     func(at string, n node) { w.Breaker = r.breaker(at, n) },
		"concurrency": whole(r, &w.Concurrency, bounds{least: 1, most: maxConcurrency}),
		"rateLimit":   r.real(&w.RateLimit, bounds{least: minRateLimit, most: maxRateLimit, unit: " a second"}),
		"maxAge":      whole(r, &w.MaxAge, ms(minMaxAge, maxMaxAge)),
		"callback":    func(at string, n node) { w.Callback = r.callback(at, n) },
		"fallback":    func(at string, n node) { w.Fallback = r.fallback(at, n) },
		"fallbackOn":  func(at string, n node) { w.FallbackOn = r.codes(at, n) },
		"headers":     func(at string, n node) { w.Headers = r.headers(at, n) },
	}, "path")
	if timeout != nil { // last, because async decides how long a custom one may be
		c := capability(name, w.Async)
		whole(r, &w.Timeout, bounds{
			least: 1, most: float64(c.MaxTimeout.Milliseconds()), unit: " ms", by: " that " + c.describe() + " may take",
		})(child(at, "timeout"), *timeout)
	}
	return w
}

// describe names the capability where a manifest meets its limit.
func (c Capability) describe() string {
	if _, builtin := Lookup(c.Name); builtin {
		return c.Name
	}
	if c.Kind == KindCall {
		return `a call of a capability that isn't built in (an event, with "async": true, has ` + number(float64(customEventTimeout.Milliseconds())) + " ms)"
	}
	return "an event"
}

func (r *reader) retry(at string, n node) *Retry {
	var v Retry
	delay := bounds{least: 1, most: maxRetryDelay, unit: " ms"}
	r.object(at, n, `an object such as {"maxAttempts": 3}`, fields{
		"enabled":      r.boolean(&v.Enabled),
		"maxAttempts":  whole(r, &v.MaxAttempts, bounds{least: 1, most: maxAttempts}),
		"backoff":      choice(r, &v.Backoff, Exponential, Linear, Fixed),
		"initialDelay": whole(r, &v.InitialDelay, delay),
		"maxDelay":     whole(r, &v.MaxDelay, delay),
	})
	if v.InitialDelay != nil && v.MaxDelay != nil && *v.InitialDelay > *v.MaxDelay {
		r.add(child(at, "initialDelay"), "%d ms is more than maxDelay, which is %d ms", *v.InitialDelay, *v.MaxDelay)
	}
	return &v
}

func (r *reader) breaker(at string, n node) *Breaker {
	var v Breaker
	threshold := bounds{least: 1, most: maxThreshold}
	r.object(at, n, `an object such as {"failureThreshold": 5}`, fields{
		"failureThreshold": whole(r, &v.FailureThreshold, threshold),
		"recoveryTimeout":  whole(r, &v.RecoveryTimeout, bounds{least: minRecovery, most: maxRecovery, unit: " ms"}),
		"successThreshold": whole(r, &v.SuccessThreshold, threshold),
	})
	return &v
}

func (r *reader) callback(at string, n node) *Callback {
	var v Callback
	var within *int64
	r.object(at, n, `an object such as {"within": 60000}`, fields{
		"within": whole(r, &within, bounds{least: minWithin, most: maxWithin, unit: " ms"}),
		"retry":  r.boolean(&v.Retry),
	}, "within")
	v.Within = or(within, 0)
	return &v
}

func (r *reader) codes(at string, n node) []string {
	var codes []string
	r.list(at, n, "a list of the app's error codes", maxCodes, r.distinct(&codes, "an error code", checkCode))
	return codes
}

// distinct reads the strings of a list, none of them twice.
func (r *reader) distinct(dst *[]string, what string, check func(string) string) field {
	seen := make(map[string]bool)
	return func(at string, n node) {
		var s string
		before := len(r.found)
		if r.text(&s, what, check)(at, n); len(r.found) > before {
			return
		}
		if seen[s] {
			r.add(at, "%s is in the list already", quote(s))
			return
		}
		seen[s] = true
		*dst = append(*dst, s)
	}
}

func checkName(kind, s string) string {
	if streams.ValidName(s) {
		return ""
	}
	return fmt.Sprintf("%s can't be the name of %s %s: use 1 to %d letters, digits, '_' or '-', starting with a letter or digit",
		quote(s), map[string]string{"app": "an", "capability": "a"}[kind], kind, streams.MaxNameLength)
}

func checkTitle(s string) string {
	switch {
	case s == "":
		return "is empty; leave the field out, and the app is shown by its appId"
	case utf8.RuneCountInString(s) > maxTitle:
		return fmt.Sprintf("is %d characters long; at most %d are allowed", utf8.RuneCountInString(s), maxTitle)
	case strings.ContainsFunc(s, unprintable):
		return "must be one line of text, without control characters"
	default:
		return ""
	}
}

// unprintable tells characters that break a line or a terminal.
func unprintable(c rune) bool {
	return c < 0x20 || c >= 0x7f && c < 0xa0 || c == '\u2028' || c == '\u2029'
}

func checkSchemaURL(s string) string {
	if len(s) > maxURL || strings.ContainsFunc(s, unprintable) {
		return fmt.Sprintf("must be an address of at most %d characters", maxURL)
	}
	return ""
}

func checkCode(s string) string {
	ok := s != "" && len(s) <= maxCode
	for i := range len(s) {
		ok = ok && (s[i] > ' ' && s[i] < 0x7f)
	}
	if !ok {
		return fmt.Sprintf("%s can't be an error code: use 1 to %d printable ASCII characters without spaces", quote(s), maxCode)
	}
	return ""
}
