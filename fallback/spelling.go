package fallback

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

var errNotJSON = errors.New("it is not JSON")

// canonical returns one spelling for all spellings of a JSON value, to compare
// and to hash: without white space, members sorted by name, strings and numbers
// written in one way. Values that differ have different ones. Of members with
// one name, each is kept, in their order.
func canonical(value []byte) ([]byte, error) {
	c, err := newCanonicalizer(value)
	if err != nil {
		return nil, err
	}
	return c.value(make([]byte, 0, len(value)))
}

// canonicalItems does for each value of a list what canonical does for one,
// and costs less.
func canonicalItems(list []byte) ([]string, error) {
	c, err := newCanonicalizer(list)
	if err != nil {
		return nil, err
	}
	if open, err := c.dec.Token(); err != nil || open != json.Delim('[') {
		return nil, errors.Join(errors.New("it is not a list"), err)
	}
	var items []string
	var out []byte
	for c.dec.More() {
		if out, err = c.value(out[:0]); err != nil {
			return nil, err
		}
		items = append(items, string(out))
	}
	return items, nil
}

func newCanonicalizer(value []byte) (canonicalizer, error) {
	if !json.Valid(value) { // also bounds the depth, which the decoder doesn't
		return canonicalizer{}, errNotJSON
	}
	c := canonicalizer{source: value, dec: json.NewDecoder(bytes.NewReader(value))}
	c.dec.UseNumber()
	return c, nil
}

type canonicalizer struct {
	source []byte
	dec    *json.Decoder
}

// value appends the next value to out.
func (c canonicalizer) value(out []byte) ([]byte, error) {
	start := c.dec.InputOffset()
	token, err := c.dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			return c.array(out)
		}
		return c.object(out)
	case string:
		return appendString(out, t, c.source[start:c.dec.InputOffset()]), nil
	case json.Number:
		return append(out, canonicalNumber(t.String())...), nil
	case bool:
		return strconv.AppendBool(out, t), nil
	default:
		return append(out, "null"...), nil
	}
}

func (c canonicalizer) array(out []byte) (_ []byte, err error) {
	out = append(out, '[')
	for first := true; c.dec.More(); first = false {
		if !first {
			out = append(out, ',')
		}
		if out, err = c.value(out); err != nil {
			return nil, err
		}
	}
	_, err = c.dec.Token() // ]
	return append(out, ']'), err
}

func (c canonicalizer) object(out []byte) ([]byte, error) {
	type member struct{ name, value []byte }
	var members []member
	for c.dec.More() {
		name, err := c.value(nil)
		if err != nil {
			return nil, err
		}
		value, err := c.value(nil)
		if err != nil {
			return nil, err
		}
		members = append(members, member{name, value})
	}
	slices.SortStableFunc(members, func(a, b member) int { return bytes.Compare(a.name, b.name) })
	out = append(out, '{')
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, m.name...), ':'), m.value...)
	}
	_, err := c.dec.Token() // }
	return append(out, '}'), err
}

// appendString appends a string in one spelling. The decoder puts U+FFFD in the
// place of what is no character, as half a surrogate pair; strings with one
// stay as they are written, or two that differ could become one.
func appendString(out []byte, s string, source []byte) []byte {
	if strings.ContainsRune(s, '\ufffd') {
		return append(out, bytes.TrimLeft(source, " \t\r\n,:")...)
	}
	return strconv.AppendQuote(out, s) // Go's spelling, as nobody but us reads it
}

// canonicalNumber writes a JSON number as digits without zeros at either end,
// and an exponent: 1, 1.0, 10e-1 are all "1e0". Exactly, and not by way of a
// float64, in which two large ids can be one.
func canonicalNumber(s string) string {
	digits, sign := s, ""
	if strings.HasPrefix(digits, "-") {
		digits, sign = digits[1:], "-"
	}
	exponent := 0
	if i := strings.IndexAny(digits, "eE"); i >= 0 {
		var err error
		if exponent, err = strconv.Atoi(digits[i+1:]); err != nil || exponent > 1<<40 || exponent < -1<<40 {
			return s // far beyond any number that is meant
		}
		digits = digits[:i]
	}
	whole, fraction, _ := strings.Cut(digits, ".")
	exponent -= len(fraction)
	digits = strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(trimmed)
	if trimmed == "" {
		return "0e0" // also -0
	}
	return sign + trimmed + "e" + strconv.Itoa(exponent)
}

// pointed returns the values that JSON pointers lead to in a document. An error
// names the pointer that leads nowhere.
func pointed(document []byte, pointers []string) ([]json.RawMessage, error) {
	values := make([]json.RawMessage, 0, len(pointers))
	for _, p := range pointers {
		v, ok := follow(document, p)
		if !ok {
			return nil, fmt.Errorf("the payload has nothing at %s", cmp.Or(p, `""`))
		}
		values = append(values, v)
	}
	return values, nil
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// follow returns the value that a JSON pointer (RFC 6901) leads to.
func follow(value json.RawMessage, pointer string) (json.RawMessage, bool) {
	if pointer == "" {
		return value, true
	}
	for token := range strings.SplitSeq(pointer[1:], "/") {
		var ok bool
		if value, ok = step(value, unescape.Replace(token)); !ok {
			return nil, false
		}
	}
	return value, true
}

func step(value json.RawMessage, token string) (json.RawMessage, bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(value, &members) == nil {
		v, ok := members[token]
		return v, ok
	}
	var items []json.RawMessage
	i, err := strconv.Atoi(token)
	if err != nil || strconv.Itoa(i) != token || json.Unmarshal(value, &items) != nil || i < 0 || i >= len(items) {
		return nil, false // "01" and "+1" are no index
	}
	return items[i], true
}

// spelled marshals v with the values in it as they are spelled, but for white
// space between tokens: json.Marshal would write "<" as \u003c.
func spelled(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}
