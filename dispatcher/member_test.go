package dispatcher

import (
	"encoding/json"
	"testing"
)

// For every object, member finds what encoding/json finds.
func FuzzMember(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1}`, ` { "a" : 1 , "b" : [ 1 , { "a" : 2 } ] , "c" : "}\"{" } `, `{"a":1,"a":"two"}`, `{"\u0061":true}`,
		`{"a":{"a":{"a":[]}},"b":null}`, `{"a\\":1,"a":-1.5e+3}`, `{"":0,"a":""}`, `{"A":1}`, "{\"a\":\t[\r\n]}", `[1]`, `"a"`, `{"a":`,
	} {
		f.Add(seed, "a")
	}
	f.Fuzz(func(t *testing.T, object, name string) {
		if !isObject([]byte(object)) || !json.Valid([]byte(object)) {
			return
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal([]byte(object), &all); err != nil {
			t.Fatal(err)
		}
		if _, there := all[name]; !there {
			all[name] = nil
		}
		for name, want := range all {
			if !representable(object, name) {
				continue
			}
			if got := member([]byte(object), name); string(got) != string(want) {
				t.Errorf("%s of %s: %q, want %q", name, object, got, want)
			}
		}
	})
}

// representable is false where encoding/json replaced bytes that are no UTF-8.
func representable(object, name string) bool {
	for _, r := range object + name {
		if r == '\uFFFD' {
			return false
		}
	}
	return true
}

func BenchmarkParseReply(b *testing.B) {
	body := []byte(`{"success":true,"data":{"counted":1}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := parseReply(body); !ok {
			b.Fatal("not agreed")
		}
	}
}
