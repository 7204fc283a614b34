package dispatcher

import (
	"bytes"
	"encoding/json"
)

// isObject tells whether JSON, if that is what it is, is an object.
func isObject(data []byte) bool {
	data = skip(data, ' ')
	return len(data) > 0 && data[0] == '{'
}

// skip returns what comes behind spaces and the given separator.
func skip(data []byte, separator byte) []byte {
	for i, c := range data {
		if !isSpace(c) && c != separator {
			return data[i:]
		}
	}
	return nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// member returns the value of an object's member as it is written, or nil. Of
// several with the name it is the last. object has to be valid JSON and an
// object.
//
// encoding/json would do it, with two flaws: into a struct it also takes
// "Success" for "success", and into a map it costs more than all the rest of
// judging an answer.
func member(object []byte, name string) (value []byte) {
	rest := skip(object, ' ')[1:] // {
	for {
		rest = skip(rest, ',')
		if rest[0] == '}' {
			return value
		}
		key := rest[:stringLen(rest)]
		rest = skip(rest[len(key):], ':')
		n := valueLen(rest)
		if isKey(key, name) {
			value = rest[:n]
		}
		rest = rest[n:]
	}
}

// isKey tells whether a quoted key, which may hold escapes, is the name.
func isKey(key []byte, name string) bool {
	if bytes.IndexByte(key, '\\') < 0 {
		return string(key[1:len(key)-1]) == name
	}
	var s string
	return json.Unmarshal(key, &s) == nil && s == name
}

// stringLen is the length of the string, quotes included, that data begins with.
func stringLen(data []byte) int {
	for i := 1; ; i++ {
		switch data[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// valueLen is the length of the value that data begins with.
func valueLen(data []byte) int {
	switch data[0] {
	case '"':
		return stringLen(data)
	case '{', '[':
	default: // a number or a word goes on until something else begins
		for i, c := range data {
			if isSpace(c) || c == ',' || c == '}' {
				return i
			}
		}
		return len(data)
	}
	depth := 0
	for i := 0; ; i++ {
		switch data[i] {
		case '"':
			i += stringLen(data[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
}
