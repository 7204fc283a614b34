package manifest

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// reader reads fields of a known type out of a tree, and collects what is wrong.
type reader struct {
	problems
	opt Options
}

// field reads the value of one field.
type field func(at string, n node)

// fields are the fields that an object may have, by name.
type fields map[string]field

// child returns the pointer to a member.
func child(at, key string) string {
	return at + "/" + strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}

func item(at string, i int) string { return at + "/" + strconv.Itoa(i) }

// is reports a value of another type than wanted.
func (r *reader) is(at string, n node, want jsonType, what string) bool {
	if n.kind != want {
		r.add(at, "must be %s, not %s", what, n)
	}
	return n.kind == want
}

// object reads an object with known fields, in the order of the document.
func (r *reader) object(at string, n node, what string, known fields, required ...string) {
	if !r.is(at, n, isObject, what) {
		return
	}
	names := slices.Sorted(maps.Keys(known))
	r.members(at, n, func(at, key string, v node) {
		if read, ok := known[key]; ok {
			if v.kind == isNull && key != "value" && !slices.Contains(required, key) {
				r.add(at, "is null; take the field out to leave it at its default")
				return
			}
			read(at, v)
			return
		}
		if near := nearest(key, names); near != "" {
			r.add(at, "unknown field; did you mean %q?", near)
		} else {
			r.add(at, "unknown field; the fields here are %s", strings.Join(names, ", "))
		}
	})
	for _, name := range required {
		if !slices.ContainsFunc(n.members, func(m member) bool { return m.key == name }) {
			r.add(child(at, name), "is missing; write it as in %q: %s", name, example(name))
		}
	}
}

// example shows a field that must be there.
func example(name string) string {
	switch name {
	case "appId":
		return `"quiz"`
	case "baseUrl":
		return `"https://quiz.example.com"`
	case "webhooks":
		return `{"quizAnswer": {"path": "/webhook"}}`
	case "within":
		return "60000"
	case "strategy":
		return `"cached"`
	default:
		return `"/webhook"`
	}
}

// maxKey is the longest key that is looked into: longer than any that is
// right, so that pointers stay short whatever the document holds.
const maxKey = 256

// members reads each member of an object once.
func (r *reader) members(at string, n node, read func(at, key string, v node)) {
	seen := make(map[string]bool, len(n.members))
	for _, m := range n.members {
		if len(r.found) > maxProblems {
			return
		}
		if len(m.key) > maxKey {
			r.add(at, "has a field whose name is %d bytes long (%s); no name is longer than %d", len(m.key), quote(m.key), maxKey)
			continue
		}
		to := child(at, m.key)
		if seen[m.key] {
			r.add(to, "is there twice; keep one")
			continue
		}
		seen[m.key] = true
		read(to, m.key, m.value)
	}
}

// list reads an array of at most most items.
func (r *reader) list(at string, n node, what string, most int, read field) {
	if !r.is(at, n, isArray, what) {
		return
	}
	if len(n.items) > most {
		r.add(at, "has %d entries; at most %d are allowed", len(n.items), most)
		return
	}
	for i, v := range n.items {
		read(item(at, i), v)
	}
}

// text reads a string; check returns what is wrong with it, or "".
func (r *reader) text(dst *string, what string, check func(string) string) field {
	return func(at string, n node) {
		if !r.is(at, n, isString, what) {
			return
		}
		if problem := check(n.text); problem != "" {
			r.add(at, "%s", problem)
			return
		}
		*dst = n.text
	}
}

func (r *reader) boolean(dst **bool) field {
	return func(at string, n node) {
		if r.is(at, n, isBoolean, "true or false") {
			*dst = &n.truth
		}
	}
}

// bounds are what a number may be.
type bounds struct {
	least, most float64
	unit        string // with a leading space, as " ms"; may be empty
	by          string // who sets the upper bound, as " that analytics may take"; may be empty
}

func (b bounds) String() string {
	return "from " + number(b.least) + " to " + number(b.most) + b.unit
}

// whole reads a whole number. A number such as 1e3 or 1000.0 is whole.
func whole[T int | int64](r *reader, dst **T, b bounds) field {
	return func(at string, n node) {
		if !r.is(at, n, isNumber, "a whole number "+b.String()) {
			return
		}
		f, ok := r.bounded(at, n.text, b)
		if !ok {
			return
		}
		if f != math.Trunc(f) {
			r.add(at, "must be a whole number %s, not %s", b, short(n.text))
			return
		}
		v := T(f) // exact: the bounds are far below 2^53
		*dst = &v
	}
}

// real reads a number that may have a fraction.
func (r *reader) real(dst **float64, b bounds) field {
	return func(at string, n node) {
		if !r.is(at, n, isNumber, "a number "+b.String()) {
			return
		}
		if f, ok := r.bounded(at, n.text, b); ok {
			*dst = &f
		}
	}
}

// bounded parses a JSON number. One that no float64 holds is an infinity of
// the right sign, which the bounds refuse.
func (r *reader) bounded(at, text string, b bounds) (float64, bool) {
	f, _ := strconv.ParseFloat(text, 64)
	switch {
	case f > b.most && b.by != "":
		r.add(at, "%s is more than the %s%s%s", short(text), number(b.most), b.unit, b.by)
	case f > b.most || f < b.least:
		r.add(at, "must be %s, not %s", b, short(text))
	default:
		return f, true
	}
	return 0, false
}

// number writes a bound as a person would: 30000, 0.001.
func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// short cuts a number of the document to what a message needs.
func short(text string) string {
	if len(text) > 24 {
		return text[:24] + "…"
	}
	return text
}

// choice reads one of a few words.
func choice[T ~string](r *reader, dst *T, words ...T) field {
	return func(at string, n node) {
		list := make([]string, len(words))
		for i, w := range words {
			list[i] = string(w)
		}
		what := "one of " + strings.Join(list, ", ")
		if !r.is(at, n, isString, what) {
			return
		}
		if !slices.Contains(list, n.text) {
			if near := nearest(n.text, list); near != "" {
				r.add(at, "must be %s, not %s; did you mean %q?", what, quote(n.text), near)
			} else {
				r.add(at, "must be %s, not %s", what, quote(n.text))
			}
			return
		}
		*dst = T(n.text)
	}
}
