package manifest

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Defaults is what holds where a manifest doesn't say: the operator's
// settings. A field that is zero leaves it at BuiltinDefaults, so the zero
// Defaults is BuiltinDefaults.
type Defaults struct {
	// Timeouts of single capabilities, by EnvName: WEBHOOK_TIMEOUT_QUIZ_ANSWER
	// is Timeouts["QUIZ_ANSWER"]. The operator may exceed what the catalogue
	// allows an app.
	Timeouts map[string]time.Duration
	// Timeout of capabilities that Timeouts doesn't name, cut to what the
	// catalogue allows each: WEBHOOK_TIMEOUT_DEFAULT. Zero means what the
	// catalogue has for each.
	Timeout time.Duration
	// Retry, for events. A RetryPolicy may be given in parts.
	Retry RetryPolicy
	// Breaker may be given in parts.
	Breaker BreakerPolicy
	// Concurrency is the most attempts in flight at one endpoint.
	Concurrency int
	// MaxAge is how old an event may become.
	MaxAge time.Duration
}

// BuiltinDefaults returns what holds without any setting: the contract's
// numbers, and 32 attempts in flight. At 5 ms an answer these make 6,400 a
// second, about half of what one machine delivers to all apps together, while
// 90 hanging apps hold fewer than 3,000 connections (some 70 MB).
func BuiltinDefaults() Defaults {
	return Defaults{
		Retry:       RetryPolicy{MaxAttempts: 3, InitialDelay: time.Second, MaxDelay: 30 * time.Second, Backoff: Exponential},
		Breaker:     BreakerPolicy{FailureThreshold: 5, RecoveryTimeout: time.Minute, SuccessThreshold: 3},
		Concurrency: 32,
		MaxAge:      24 * time.Hour,
	}
}

func (d Defaults) filled() Defaults {
	b := BuiltinDefaults()
	d.Retry = RetryPolicy{
		MaxAttempts:  cmp.Or(d.Retry.MaxAttempts, b.Retry.MaxAttempts),
		InitialDelay: cmp.Or(d.Retry.InitialDelay, b.Retry.InitialDelay),
		MaxDelay:     cmp.Or(d.Retry.MaxDelay, b.Retry.MaxDelay),
		Backoff:      cmp.Or(d.Retry.Backoff, b.Retry.Backoff),
	}
	d.Breaker = BreakerPolicy{
		FailureThreshold: cmp.Or(d.Breaker.FailureThreshold, b.Breaker.FailureThreshold),
		RecoveryTimeout:  cmp.Or(d.Breaker.RecoveryTimeout, b.Breaker.RecoveryTimeout),
		SuccessThreshold: cmp.Or(d.Breaker.SuccessThreshold, b.Breaker.SuccessThreshold),
	}
	d.Concurrency = cmp.Or(d.Concurrency, b.Concurrency)
	d.MaxAge = cmp.Or(d.MaxAge, b.MaxAge)
	return d
}

// EnvName returns a capability's name as settings write it: quizAnswer is
// QUIZ_ANSWER, dataSync and data-sync are both DATA_SYNC, quizAPI is QUIZ_API.
func EnvName(capability string) string {
	var b strings.Builder
	letters := []rune(capability)
	for i, c := range letters {
		switch {
		case c == '-':
			c = '_'
		case i > 0 && startsWord(letters, i):
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(c))
	}
	return b.String()
}

// startsWord tells whether a new word starts at an upper-case letter: after a
// lower-case letter or digit, or where the next is lower-case (API|Key).
func startsWord(s []rune, i int) bool {
	if !unicode.IsUpper(s[i]) {
		return false
	}
	before := s[i-1]
	if unicode.IsLower(before) || unicode.IsDigit(before) {
		return true
	}
	return unicode.IsUpper(before) && i+1 < len(s) && unicode.IsLower(s[i+1])
}

// Endpoints returns the manifest's webhooks with every default filled in,
// sorted by capability. The manifest's own values win over d, and d over the
// catalogue. The manifest must come from Parse or a Store.
func (m Manifest) Endpoints(d Defaults) []Endpoint {
	d = d.filled()
	endpoints := make([]Endpoint, 0, len(m.Webhooks))
	for _, name := range slices.Sorted(maps.Keys(m.Webhooks)) {
		w := m.Webhooks[name]
		c := capability(name, w.Async)
		e := Endpoint{
			EndpointID:  m.EndpointID(name),
			URL:         m.url(w.Path),
			Async:       or(w.Async, c.Kind == KindEvent),
			Timeout:     millis(w.Timeout, d.timeout(c)),
			Retry:       w.Retry.policy(d.Retry),
			Breaker:     w.Breaker.policy(d.Breaker),
			Concurrency: or(w.Concurrency, d.Concurrency),
			RateLimit:   or(w.RateLimit, 0),
			MaxAge:      millis(w.MaxAge, d.MaxAge),
			Callback:    w.Callback.policy(),
			FallbackOn:  slices.Clone(w.FallbackOn),
			Fallback:    slices.Clone(w.Fallback),
			Headers:     maps.Clone(w.Headers),
		}
		if w.Fallback == nil {
			e.Fallback = c.Fallback
		}
		endpoints = append(endpoints, e)
	}
	return endpoints
}

func (d Defaults) timeout(c Capability) time.Duration {
	switch own := d.Timeouts[EnvName(c.Name)]; {
	case own > 0:
		return own
	case d.Timeout > 0:
		return min(d.Timeout, c.MaxTimeout)
	default:
		return c.Timeout
	}
}

func (r *Retry) policy(d RetryPolicy) RetryPolicy {
	if r == nil {
		return d
	}
	p := RetryPolicy{
		MaxAttempts:  or(r.MaxAttempts, d.MaxAttempts),
		InitialDelay: millis(r.InitialDelay, d.InitialDelay),
		MaxDelay:     millis(r.MaxDelay, d.MaxDelay),
		Backoff:      cmp.Or(r.Backoff, d.Backoff),
	}
	if !or(r.Enabled, true) {
		p.MaxAttempts = 1
	}
	// One delay from the manifest and the other from the settings may not fit
	// together; the manifest's wins.
	if r.InitialDelay != nil {
		p.MaxDelay = max(p.MaxDelay, p.InitialDelay)
	}
	p.InitialDelay = min(p.InitialDelay, p.MaxDelay)
	return p
}

func (b *Breaker) policy(d BreakerPolicy) BreakerPolicy {
	if b == nil {
		return d
	}
	return BreakerPolicy{
		FailureThreshold: or(b.FailureThreshold, d.FailureThreshold),
		RecoveryTimeout:  millis(b.RecoveryTimeout, d.RecoveryTimeout),
		SuccessThreshold: or(b.SuccessThreshold, d.SuccessThreshold),
	}
}

func (c *Callback) policy() CallbackPolicy {
	if c == nil {
		return CallbackPolicy{}
	}
	return CallbackPolicy{Within: time.Duration(c.Within) * time.Millisecond, Retry: or(c.Retry, false)}
}

// or returns what p points to, or else d.
func or[T any](p *T, d T) T {
	if p == nil {
		return d
	}
	return *p
}

// millis returns the milliseconds that p points to, or else d.
func millis(p *int64, d time.Duration) time.Duration {
	if p == nil {
		return d
	}
	return time.Duration(*p) * time.Millisecond
}
