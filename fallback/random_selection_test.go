package fallback

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"backstop/streams"
)

// selected is a draw's answer.
type selected struct {
	Winners   []json.RawMessage `json:"winners"`
	Selection Selection         `json:"selection"`
}

func TestRandomSelection(t *testing.T) {
	tests := []struct {
		reason     string
		payload    string
		candidates int
		count      int
		duplicates int
		shape      string
	}{
		{"as the contract has it", `{"candidates":["a","b","c"],"count":2}`, 3, 2, 0, "candidates, count"},
		{"one, unless it says more", `{"candidates":["a","b","c"]}`, 3, 1, 0, "candidates"},
		{"null is as if it weren't there", `{"candidates":["a"],"count":null}`, 1, 1, 0, "candidates"},
		{"the platform's older names", `{"participants":[{"id":1},{"id":2}],"winnersCount":2}`, 2, 2, 0, "participants, winnersCount"},
		{"a mixture", `{"participants":[1,2],"count":2}`, 2, 2, 0, "participants, count"},
		{"the new names win", `{"participants":[1],"winnersCount":9,"candidates":[1,2,3],"count":3}`, 3, 3, 0, "candidates, count"},
		{"all of them", `{"candidates":[1,2,3],"count":3}`, 3, 3, 0, "candidates, count"},
		{"a whole number in another spelling", `{"candidates":[1,2,3],"count":2.0}`, 3, 2, 0, "candidates, count"},
		{"and another", `{"candidates":[1,2,3],"count":2e0}`, 3, 2, 0, "candidates, count"},
		{"equal ones count once", `{"candidates":["a","a","b","\u0061"],"count":2}`, 2, 2, 2, "candidates, count"},
		{"whatever the order of their members", `{"candidates":[{"a":1,"b":[2]},{ "b" : [ 2 ], "a" : 1 }]}`, 1, 1, 1, "candidates"},
		{"and the spelling of numbers", `{"candidates":[1,1.0,10e-1,100E-2,-0,0]}`, 2, 1, 4, "candidates"},
		{"but not large ones that a float64 can't tell apart", `{"candidates":[9007199254740993,9007199254740992]}`, 2, 1, 0, "candidates"},
		{"nor half characters", `{"candidates":["\ud800","\ud801"]}`, 2, 1, 0, "candidates"},
		{"nor types", `{"candidates":[1,"1",[1],null,true,"true"]}`, 6, 1, 0, "candidates"},
		{"more members don't matter", `{"lotteryId":"x","candidates":["a"],"more":{"count":7}}`, 1, 1, 0, "candidates"},
	}
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			a, err := randomSelection(t.Context(), requestWith(test.payload, draws))
			if err != nil {
				t.Fatal(err)
			}
			var got selected
			if err := json.Unmarshal(a.data, &got); err != nil {
				t.Fatal(err)
			}
			s := got.Selection
			if s.Algorithm != DrawAlgorithm || len(s.Seed) != 64 || s.Candidates != test.candidates || s.Count != test.count || len(got.Winners) != test.count {
				t.Errorf("%s", a.data)
			}
			want := map[string]any{
				"algorithm": s.Algorithm, "seed": s.Seed, "candidates": s.Candidates, "count": s.Count,
				"duplicates": test.duplicates, "shape": test.shape, "payloadSha256": a.audit["payloadSha256"],
			}
			if fmt.Sprint(a.audit) != fmt.Sprint(want) || len(fmt.Sprint(a.audit["payloadSha256"])) != 64 {
				t.Errorf("audit %v, want %v", a.audit, want)
			}
			for _, w := range got.Winners {
				if !strings.Contains(test.payload, string(w)) {
					t.Errorf("winner %s is not as in the payload", w)
				}
			}
			again, err := Redraw([]byte(test.payload), s.Seed)
			if err != nil || fmt.Sprintf("%s", again) != fmt.Sprintf("%s", got.Winners) {
				t.Errorf("drawn again: %s (%v), first %s", again, err, got.Winners)
			}
		})
	}
}

func TestRandomSelectionGivesUp(t *testing.T) {
	for _, test := range []struct{ payload, want string }{
		{`{}`, `no "candidates"`},
		{`{"candidates":null}`, `no "candidates"`},
		{`{"Candidates":["a"]}`, `no "candidates"`},
		{`{"candidates":{}}`, `"candidates" in the payload is not a list`},
		{`{"participants":"a"}`, `"participants" in the payload is not a list`},
		{`{"candidates":7}`, `not a list`},
		{`{"candidates":[]}`, `1 are to be drawn from 0`},
		{`{"candidates":["a","b"],"count":3}`, `3 are to be drawn from 2`},
		{`{"candidates":["a","a"],"count":2}`, `2 are to be drawn from 1 different`},
		{`{"candidates":["a"],"count":0}`, `less than 1`},
		{`{"candidates":["a"],"count":-1}`, `less than 1`},
		{`{"candidates":["a"],"winnersCount":1.5}`, `"winnersCount" in the payload is not a whole number`},
		{`{"candidates":["a"],"count":"1"}`, `not a whole number`},
		{`{"candidates":["a"],"count":true}`, `not a whole number`},
		{`{"candidates":["a"],"count":[1]}`, `not a whole number`},
		{`{"candidates":["a"],"count":1e12}`, `more than there can be`},
		{`{"candidates":["a"],"count":1e999}`, `whole number`},
		{`[]`, `not a JSON object`},
		{`null`, `not a JSON object`},
		{``, `not a JSON object`},
		{`{"candidates":[`, `not a JSON object`},
	} {
		a, err := randomSelection(t.Context(), requestWith(test.payload, draws))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %s, error %v, want %q", test.payload, a.data, err, test.want)
		}
	}
}

func TestTwoDrawsHaveTwoSeeds(t *testing.T) {
	first, err := randomSelection(t.Context(), requestWith(`{"candidates":[1]}`, draws))
	if err != nil {
		t.Fatal(err)
	}
	second, err := randomSelection(t.Context(), requestWith(`{"candidates":[1]}`, draws))
	if err != nil || bytes.Equal(first.data, second.data) {
		t.Errorf("%s twice (%v)", first.data, err)
	}
}

func TestRedrawRefusesWhatIsNoSeed(t *testing.T) {
	for _, seed := range []string{"", "00", strings.Repeat("0", 63), strings.Repeat("x", 64), strings.Repeat("0", 66)} {
		if _, err := Redraw([]byte(`{"candidates":[1]}`), seed); err == nil {
			t.Errorf("%q was taken", seed)
		}
	}
	if _, err := Redraw([]byte(`{}`), strings.Repeat("0", 64)); err == nil {
		t.Error("drawn from nothing")
	}
}

// Winners are different candidates of the payload, as many as were asked for.
func TestRandomSelectionProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		candidates := rapid.SliceOfN(rapid.OneOf(
			rapid.Map(rapid.IntRange(0, 30), func(i int) any { return i }),
			rapid.Map(rapid.String(), func(s string) any { return s }),
			rapid.Map(rapid.MapOf(rapid.StringN(0, 2, -1), rapid.IntRange(0, 2)), func(m map[string]int) any { return m }),
		), 0, 40).Draw(t, "candidates")
		count := rapid.IntRange(1, 45).Draw(t, "count")
		different := map[string]bool{}
		for _, c := range candidates {
			spelling, _ := json.Marshal(c) // sorts members
			different[string(spelling)] = true
		}
		payload, err := json.Marshal(map[string]any{"candidates": candidates, "count": count})
		if err != nil {
			t.Fatal(err)
		}
		a, err := selectWith(seedOf(count), payload)
		if (err == nil) != (count <= len(different)) {
			t.Fatalf("%d of %d: error %v", count, len(different), err)
		}
		if err != nil {
			return
		}
		var got struct{ Winners []any }
		if err := json.Unmarshal(a.data, &got); err != nil || len(got.Winners) != count {
			t.Fatalf("%s: %v", a.data, err)
		}
		for _, w := range got.Winners {
			spelling, _ := json.Marshal(w)
			if !different[string(spelling)] {
				t.Fatalf("%s won twice, or is no candidate", spelling)
			}
			delete(different, string(spelling))
		}
	})
}

// Whatever the payload, a draw either says why not, or can be repeated.
func FuzzRandomSelection(f *testing.F) {
	for _, payload := range []string{`{"candidates":["a","b"],"count":2}`, `{"participants":[{"id":1}],"winnersCount":1}`, `{"candidates":[[[]]]}`, `[]`, ``} {
		f.Add([]byte(payload))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		a, err := selectWith(seedOf(0), payload)
		if err != nil {
			return
		}
		var got selected
		if err := json.Unmarshal(a.data, &got); err != nil {
			t.Fatalf("%s: %v", a.data, err)
		}
		again, err := Redraw(payload, got.Selection.Seed)
		if err != nil || len(again) != len(got.Winners) || len(again) != got.Selection.Count || got.Selection.Count < 1 {
			t.Fatalf("%s, then %s (%v)", a.data, again, err)
		}
	})
}

// The largest payload is read within what is reserved for it, on a machine
// that is not too busy; here it only has to come to its end.
func TestRandomSelectionOfTheLargestPayload(t *testing.T) {
	payload := []byte(`{"candidates":[0` + strings.Repeat(",1", streams.MaxPayload/2-20) + `]}`)
	a, err := selectWith(seedOf(0), payload)
	if err != nil || a.audit["candidates"] != 2 {
		t.Errorf("%v, %v", a.audit, err)
	}
}
