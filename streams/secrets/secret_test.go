package secrets

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// vector is the secret of the contract's test vector: 24 bytes.
const vector = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func TestGenerate(t *testing.T) {
	a, b := Generate(), Generate()
	if err := Check(a.Reveal()); err != nil {
		t.Error(err)
	}
	if want := len("whsec_") + 44; len(a.Reveal()) != want {
		t.Errorf("%d characters, want %d: base64 of 32 bytes", len(a.Reveal()), want)
	}
	if a.Equal(b) {
		t.Error("two secrets are the same")
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name, text, want, reason string
	}{
		{"vector", vector, "", "Standard Webhooks' own"},
		{"24 bytes", "whsec_" + strings.Repeat("AAAA", 8), "", "the fewest"},
		{"64 bytes", "whsec_" + strings.Repeat("AAAA", 21) + "AA==", "", "the most"},
		{"empty", "", `start with "whsec_"`, "none"},
		{"no prefix", vector[6:], `start with "whsec_"`, "other systems leave it out"},
		{"other case", "WHSEC_" + vector[6:], `start with "whsec_"`, "the HMAC is of the text as it stands"},
		{"prefix alone", "whsec_", "0 bytes", "an empty key"},
		{"23 bytes", "whsec_" + strings.Repeat("AAAA", 7) + "AAA=", "23 bytes", "one too few"},
		{"65 bytes", "whsec_" + strings.Repeat("AAAA", 21) + "AAA=", "65 bytes", "one too many"},
		{"not base64", "whsec_" + strings.Repeat("!", 32), "not standard base64", "other characters"},
		{"url alphabet", "whsec_" + strings.Repeat("A-_A", 8), "not standard base64", "Standard Webhooks has the standard alphabet"},
		{"no padding", "whsec_" + strings.Repeat("AAAA", 10) + "AAA", "not standard base64", "32 bytes without their ="},
		{"loose bits", "whsec_" + strings.Repeat("AAAA", 10) + "AAB=", "not standard base64", "two texts for the same bytes"},
		{"line break", vector + "\n", "not standard base64", "as read from a file with its line end"},
		{"line break inside", vector[:20] + "\r\n" + vector[20:], "not standard base64", "Go's decoder would skip it"},
		{"space", " " + vector, `start with "whsec_"`, "as pasted"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Check(tt.text)
			_, newErr := New(tt.text)
			if (err == nil) != (newErr == nil) {
				t.Errorf("Check says %v, New says %v", err, newErr)
			}
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v (%s)", err, tt.reason)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want one with %q (%s)", err, tt.want, tt.reason)
			}
			if len(tt.text) > 20 && err != nil && strings.Contains(err.Error(), tt.text[10:20]) {
				t.Error("the error shows the secret")
			}
		})
	}
}

// around holds secrets where fmt can't ask their methods.
type around struct {
	Public  Secret
	private Secret
	list    []Secret
	byName  map[string]Secret
	deep    struct{ s *Secret }
}

func TestSecretsDontPrint(t *testing.T) {
	s, err := New(vector)
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey(make([]byte, keySize))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := key.private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	a := around{Public: s, private: s, list: []Secret{s}, byName: map[string]Secret{"a": s}}
	a.deep.s = &s
	keyring := NewKeyring(key, nil, nil)
	keyring.apps.Store("quiz", &ring{texts: []string{s.Reveal()}})

	var out bytes.Buffer
	for _, v := range []any{s, &s, a, &a, []any{s, a}, key, *key, keyring, errors.New(s.String())} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		if j, err := json.Marshal(v); err == nil {
			out.Write(j)
		}
		if x, err := xml.Marshal(v); err == nil {
			out.Write(x)
		}
	}
	forbidden := [][]byte{
		[]byte(vector), []byte(vector[6:]), // as they are
		fmt.Appendf(nil, "%x", vector), fmt.Appendf(nil, "%X", vector), // by %x
		fmt.Appendf(nil, "%v", raw[:8])[1:20], fmt.Appendf(nil, "%x", raw[:8]), // the private key
	}
	for _, f := range forbidden {
		if bytes.Contains(out.Bytes(), f) {
			t.Errorf("%q was printed", f)
		}
	}
	if !bytes.Contains(out.Bytes(), []byte("[redacted]")) {
		t.Error("nothing says [redacted]")
	}
	if j, err := json.Marshal(map[string]Secret{"a": s}); err != nil || string(j) != `{"a":"[redacted]"}` {
		t.Errorf("as JSON: %s, %v", j, err)
	}
	if s.Reveal() != vector {
		t.Error("Reveal doesn't")
	}
}

func TestZeroSecret(t *testing.T) {
	var s Secret
	if !s.IsZero() || s.Reveal() != "" || fmt.Sprint(s) != "[redacted]" || Generate().IsZero() {
		t.Error("the zero Secret is none, and prints as any other")
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(vector)
	f.Add("whsec_")
	f.Add(Generate().Reveal())
	f.Fuzz(func(t *testing.T, text string) {
		err := Check(text)
		if err == nil && (len(text) > len(Prefix)+88 || strings.ContainsAny(text, " \r\n\x00")) {
			t.Errorf("%q is accepted", text)
		}
		if err != nil && len(text) > 16 && strings.Contains(err.Error(), text) {
			t.Errorf("the error shows %q", text)
		}
	})
}
