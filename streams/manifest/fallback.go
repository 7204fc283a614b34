package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"backstop/streams"
)

// The strategies of a fallback list.
const (
	StrategyDefault = "default" // the platform's own behaviour; see the handlers
	StrategyCached  = "cached"  // the last good answer for the same key
	StrategyQueue   = "queue"   // send it as an event, answer at once
	StrategyPending = "pending" // a person decides
)

// The handlers of the default strategy.
const (
	HandlerRandomSelection = "random-selection" // a fair pick of the payload's candidates
	HandlerReject          = "reject"
	HandlerAccept          = "accept"
	HandlerStatic          = "static"  // the value in the manifest
	HandlerService         = "service" // a platform service answers on a subject
)

// fallback reads a fallback list; an empty one is not nil.
func (r *reader) fallback(at string, n node) []Strategy {
	list := []Strategy{}
	r.list(at, n, "a list of strategies", maxStrategies, func(at string, n node) {
		list = append(list, r.strategy(at, n))
	})
	return list
}

// strategy reads one entry. Which fields it may have depends on the strategy
// and the handler, so those of the others are known but mistakes.
func (r *reader) strategy(at string, n node) Strategy {
	var s Strategy
	var ttl *int64
	r.object(at, n, `an object such as {"strategy": "default", "handler": "reject"}`, fields{
		"strategy": choice(r, &s.Strategy, StrategyDefault, StrategyCached, StrategyQueue, StrategyPending),
		"handler":  choice(r, &s.Handler, HandlerRandomSelection, HandlerReject, HandlerAccept, HandlerStatic, HandlerService),
		"value":    func(_ string, n node) { s.Value = compact(n.raw) },
		"subject":  r.text(&s.Subject, "a NATS subject", checkSubject),
		"key": func(at string, n node) {
			r.list(at, n, "a list of JSON pointers into the payload", maxCacheKeys, r.distinct(&s.Key, "a JSON pointer", checkPointer))
		},
		"ttl": whole(r, &ttl, bounds{least: 1, most: maxTTL, unit: " ms"}),
	}, "strategy")
	s.TTL = or(ttl, 0)
	if s.Strategy != "" {
		given := make(map[string]bool)
		for _, m := range n.members {
			given[m.key] = true
		}
		r.fit(at, s, given)
	}
	return s
}

// fit reports the fields that the strategy needs and hasn't, and the reverse.
func (r *reader) fit(at string, s Strategy, given map[string]bool) {
	handlerUnknown := s.Strategy == StrategyDefault && s.Handler == "" // and reported already
	for _, f := range []struct {
		name, home      string
		needed, fitting bool
	}{
		{"handler", "the strategy default", s.Strategy == StrategyDefault, s.Strategy == StrategyDefault},
		{"value", "the handler static", s.Handler == HandlerStatic, s.Handler == HandlerStatic || handlerUnknown},
		{"subject", "the handler service", s.Handler == HandlerService, s.Handler == HandlerService || handlerUnknown},
		{"key", "the strategy cached", false, s.Strategy == StrategyCached},
		{"ttl", "the strategy cached", false, s.Strategy == StrategyCached},
	} {
		switch {
		case f.needed && !given[f.name]:
			r.add(child(at, f.name), "is missing; %s needs it", f.home)
		case !f.fitting && given[f.name]:
			r.add(child(at, f.name), "belongs to %s; take it out", f.home)
		}
	}
}

// compact removes white space, so that a value that was stored indented reads
// back as it was.
func compact(raw []byte) RawJSON {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return slices.Clone(raw) // not reached: the document was valid
	}
	return b.Bytes()
}

// subjectPattern is a NATS subject without wildcards.
var subjectPattern = regexp.MustCompile(`^[!-)+,\-/-=?-~]+(\.[!-)+,\-/-=?-~]+)*$`)

// checkSubject judges where a request may go on Backstop's own authority: not
// to the server's API, which could delete a stream, nor to an inbox, nor to
// Backstop's own subjects, which would go round in a circle.
func checkSubject(s string) string {
	first, _, _ := strings.Cut(s, ".")
	switch {
	case len(s) > maxSubject:
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), maxSubject)
	case !subjectPattern.MatchString(s):
		return quote(s) + " is not a NATS subject: use words joined by '.', without spaces or wildcards, such as fallback.quiz"
	case strings.HasPrefix(s, "$") || strings.HasPrefix(s, "_"):
		return quote(s) + ` can't be used: subjects that start with "$" or "_" belong to NATS`
	case slices.Contains(streams.OwnWords(), first):
		return quote(s) + " can't be used: subjects that start with " + first + ". are Backstop's own"
	default:
		return ""
	}
}

func checkPointer(s string) string {
	switch {
	case len(s) > maxPointer:
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), maxPointer)
	case s != "" && s[0] != '/':
		return quote(s) + ` is not a JSON pointer: start with "/", as /quizId or /user/id`
	case badEscape.MatchString(s):
		return quote(s) + ` is not a JSON pointer: write "~" as ~0 and "/" as ~1`
	default:
		return ""
	}
}

var badEscape = regexp.MustCompile(`~([^01]|$)`)
