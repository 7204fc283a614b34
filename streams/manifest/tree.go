package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// node is a JSON value as it was written. Manifests are read from a tree of
// them and not by json.Unmarshal, which stops at the first wrong type, takes
// the last of duplicate fields without a word, and matches names by any case.
type node struct {
	kind    jsonType
	members []member // of an object, in the order of the document
	items   []node   // of an array
	text    string   // of a string, decoded; of a number, as written
	truth   bool     // of a boolean
	raw     []byte   // the value's source
}

type member struct {
	key   string
	value node
}

type jsonType string

const (
	isNull    jsonType = "null"
	isBoolean jsonType = "a boolean"
	isNumber  jsonType = "a number"
	isString  jsonType = "a string"
	isArray   jsonType = "a list"
	isObject  jsonType = "an object"
)

// String says what the node is, in a message: "a list", `the string "x"`.
func (n node) String() string {
	switch n.kind {
	case isString:
		return "the string " + quote(n.text)
	case isNumber:
		return "the number " + n.text
	case isBoolean:
		return fmt.Sprint(n.truth)
	default:
		return string(n.kind)
	}
}

// decode reads a whole document, or says in one problem why it isn't JSON.
func decode(data []byte) (node, error) {
	if problem := checkText(data); problem != "" {
		return node{}, Problems{{Message: problem}}
	}
	// The decoder below reads token by token; this finds what is wrong with
	// the grammar, and says it better.
	if err := json.Unmarshal(data, new(json.RawMessage)); err != nil {
		return node{}, Problems{{Message: "not JSON: " + locate(data, err)}}
	}
	r := treeReader{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	n, err := r.value(0)
	switch {
	case errors.Is(err, errTooDeep):
		at := position(data, int(r.dec.InputOffset()))
		return node{}, Problems{{Message: fmt.Sprintf("%s: nested more than %d levels deep", at, maxDepth)}}
	case err != nil:
		return node{}, Problems{{Message: "not JSON: " + locate(data, err)}}
	}
	return n, nil
}

var errTooDeep = errors.New("nested too deep")

func checkText(data []byte) string {
	switch {
	case len(data) > MaxSize:
		return fmt.Sprintf("the manifest has %d bytes; at most %d (%d KiB) are allowed", len(data), MaxSize, MaxSize>>10)
	case len(bytes.TrimSpace(data)) == 0:
		return `the manifest is empty; it must be a JSON object such as {"appId": "quiz", "baseUrl": "https://…", "webhooks": {…}}`
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return "not JSON: the file starts with a byte order mark; save it as UTF-8 without one"
	case !utf8.Valid(data):
		at := 0
		for rest := data; ; {
			c, size := utf8.DecodeRune(rest)
			if c == utf8.RuneError && size <= 1 {
				return fmt.Sprintf("not JSON: %s is not UTF-8; save the file as UTF-8", position(data, at))
			}
			rest, at = rest[size:], at+size
		}
	default:
		return ""
	}
}

// locate words a decoder's error with its place.
func locate(data []byte, err error) string {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err.Error()
	}
	at := int(syntax.Offset) - 1 // Offset counts the offending byte as read
	if syntax.Offset >= int64(len(data)) && syntax.Error() == "unexpected end of JSON input" {
		at = len(data)
	}
	at = max(at, 0)
	message := position(data, at) + ": " + syntax.Error()
	if at < len(data) && (data[at] == '}' || data[at] == ']') && bytes.HasSuffix(bytes.TrimSpace(data[:at]), []byte(",")) {
		message += "; take out the comma before it"
	}
	return message
}

// position returns the line and column, both from 1, of the byte at an offset.
func position(data []byte, at int) string {
	before := data[:at]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Sprintf("line %d, column %d", line, column)
}

type treeReader struct {
	data []byte
	dec  *json.Decoder
}

func (r *treeReader) value(depth int) (node, error) {
	if depth > maxDepth {
		return node{}, errTooDeep
	}
	start := r.dec.InputOffset()
	token, err := r.dec.Token()
	if err != nil {
		return node{}, err
	}
	var n node
	switch t := token.(type) {
	case json.Delim:
		n, err = r.container(t, depth)
	case string:
		n = node{kind: isString, text: t}
	case json.Number:
		n = node{kind: isNumber, text: t.String()}
	case bool:
		n = node{kind: isBoolean, truth: t}
	default:
		n = node{kind: isNull}
	}
	// Between two tokens stand white space, a comma or a colon.
	n.raw = bytes.TrimLeft(r.data[start:r.dec.InputOffset()], " \t\r\n,:")
	return n, err
}

func (r *treeReader) container(open json.Delim, depth int) (node, error) {
	n := node{kind: isArray}
	if open == '{' {
		n.kind = isObject
	}
	for r.dec.More() {
		var key string
		if n.kind == isObject {
			token, err := r.dec.Token()
			if err != nil {
				return node{}, err
			}
			key, _ = token.(string) // the grammar allows nothing else here
		}
		v, err := r.value(depth + 1)
		if err != nil {
			return node{}, err
		}
		if n.kind == isObject {
			n.members = append(n.members, member{key, v})
		} else {
			n.items = append(n.items, v)
		}
	}
	_, err := r.dec.Token() // the closing delimiter
	return n, err
}
