package fallback

import (
	"bytes"
	"encoding/json"
	"math/big"
	"regexp"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	for _, same := range [][]string{
		{`1`, `1.0`, `1e0`, `10e-1`, `0.1E+1`, ` 1 `, `1000e-3`},
		{`0`, `-0`, `0.00`, `0e5`, `-0e-7`},
		{`-120`, `-1.2e2`, `-12e1`},
		{`"a/b"`, `"a\/b"`, `"\u0061\u002fb"`},
		{`"é<"`, `"\u00e9\u003c"`},
		{`"\ud83d\ude00"`, `"😀"`},
		{`[1,[2,{}]]`, "[ 1.0 , [ 2 ,\n{ } ] ]"},
		{`{"a":1,"b":{"c":[],"d":null}}`, ` { "b" : {"d":null,"c":[ ]}, "\u0061":1 }`},
		{`true`, ` true`},
		{`null`, `null `},
	} {
		first, err := canonical([]byte(same[0]))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range same[1:] {
			if got, err := canonical([]byte(s)); err != nil || !bytes.Equal(got, first) {
				t.Errorf("%s is %s, and %s is %s (%v)", same[0], first, s, got, err)
			}
		}
	}
	seen := map[string]string{}
	for _, s := range []string{
		`1`, `-1`, `10`, `0.1`, `11`, `9007199254740993`, `9007199254740992`, `1e999`, `1e1000`, `1e99999999999999999999`, `2e99999999999999999999`,
		`"1"`, `""`, `"\ud800"`, `"\ud801"`, `"\ufffd"`, "\"\xff\"", `"\\ud800"`, `"\u0000"`, `"\\u0000"`,
		`null`, `"null"`, `true`, `false`, `[]`, `{}`, `[[]]`, `[{}]`, `[1,2]`, `[2,1]`, `[12]`, `["1,2"]`,
		`{"a":1}`, `{"a":2}`, `{"b":1}`, `{"a":1,"b":2}`, `{"a":2,"b":1}`, `{"a":1,"a":2}`, `{"a":2,"a":1}`, `{"a\":1,\"b":2}`,
	} {
		got, err := canonical([]byte(s))
		if err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if other, there := seen[string(got)]; there {
			t.Errorf("%s and %s are both %s", s, other, got)
		}
		seen[string(got)] = s
	}
	for _, s := range []string{``, ` `, `{`, `1 2`, `{"a"}`, `[1,]`, `01`, strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)} {
		if got, err := canonical([]byte(s)); err == nil {
			t.Errorf("%.20s is %.20s", s, got)
		}
	}
}

// number is one whose digits can all be written down.
var number = regexp.MustCompile(`^[0-9.-]+([eE][+-]?[0-9]{1,3})?$`)

// Every spelling that encoding/json makes of a value is one, and numbers keep
// their value exactly.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":[1.50,"\u0061"],"a":null}`, `-0.0e-7`, `"\ud800x"`, `[[],{}]`, `123456789012345678901234567890`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		first, err := canonical(value)
		if (err == nil) != json.Valid(value) {
			t.Fatalf("valid %v, error %v", json.Valid(value), err)
		}
		if err != nil {
			return
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, value, " ", "\t"); err != nil {
			t.Fatal(err)
		}
		if again, err := canonical(indented.Bytes()); err != nil || !bytes.Equal(first, again) {
			t.Fatalf("%s, indented %s (%v)", first, again, err)
		}
		if s := string(bytes.TrimSpace(value)); len(s) < 30 && number.MatchString(s) {
			was, ok1 := new(big.Rat).SetString(s)
			is, ok2 := new(big.Rat).SetString(string(first))
			if ok1 != ok2 || ok1 && was.Cmp(is) != 0 {
				t.Fatalf("%s became %s", s, first)
			}
		}
	})
}

func TestPointers(t *testing.T) {
	const document = `{"quizId":"q1","user":{"id":7,"a/b":1,"m~n":2,"":3},"list":[10,[20]],"null":null,"01":"name"}`
	for pointer, want := range map[string]string{
		"":             document,
		"/quizId":      `"q1"`,
		"/user/id":     `7`,
		"/user/a~1b":   `1`,
		"/user/m~0n":   `2`,
		"/user/":       `3`,
		"/list/0":      `10`,
		"/list/1/0":    `20`,
		"/null":        `null`,
		"/01":          `"name"`,
		"/none":        "",
		"/":            "",
		"/quizid":      "",
		"/quizId/0":    "",
		"/list/2":      "",
		"/list/-":      "",
		"/list/-1":     "",
		"/list/00":     "",
		"/list/+1":     "",
		"/list/id":     "",
		"/null/a":      "",
		"/user/id/0":   "",
		"/list/1/0/":   "",
		"/user/a/b":    "",
		"/list/9e0":    "",
		"/user/id/a/b": "",
	} {
		got, err := pointed([]byte(document), []string{pointer})
		switch {
		case want == "" && (err == nil || !strings.Contains(err.Error(), pointer)):
			t.Errorf("%q leads to %s (%v)", pointer, got, err)
		case want != "" && (err != nil || string(got[0]) != want):
			t.Errorf("%q leads to %s (%v), want %s", pointer, got, err, want)
		}
	}
}
