package callback_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"backstop/dispatcher/callback"
)

var (
	now    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	grant  = callback.Grant{ID: "order-17", Origin: "dk3j2h1-42", Capability: "analytics", App: "quiz"}
	issuer = callback.NewIssuer([]byte("a key of thirty-two bytes, or so"), 0)
)

func issue(t testing.TB, i *callback.Issuer, g callback.Grant) string {
	t.Helper()
	token, ok := i.Append(nil, g, now)
	if !ok {
		t.Fatalf("no token for %+v", g)
	}
	return string(token)
}

func TestTokenSaysWhatItPermits(t *testing.T) {
	longest := strings.Repeat("x", 64)
	for name, g := range map[string]callback.Grant{
		"usual":       grant,
		"awaited":     {ID: "a", Origin: "b", Capability: "c", App: "d", Awaited: true},
		"no id":       {Origin: "b", Capability: "c", App: "d"},
		"longest":     {ID: longest, Origin: "approved-" + longest + "-1796000000000000000", Capability: longest, App: longest},
		"any bytes":   {ID: "\x00\xff", Origin: "/", Capability: "é", App: "."},
		"short texts": {ID: "1", Origin: "2", Capability: "3", App: "4"},
	} {
		t.Run(name, func(t *testing.T) {
			token := issue(t, issuer, g)
			if len(token) > callback.MaxLength || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
				t.Errorf("%d characters, at most %d, safe in a URL: %s", len(token), callback.MaxLength, token)
			}
			got, err := issuer.Read(token, now)
			g.Expires = now.Add(callback.Validity)
			if err != nil || !got.Expires.Equal(g.Expires) {
				t.Fatalf("%+v %v, want %+v", got, err, g)
			}
			got.Expires = g.Expires
			if got != g {
				t.Errorf("%+v, want %+v", got, g)
			}
		})
	}
	if callback.MaxLength > 430 {
		t.Errorf("a token may have %d characters", callback.MaxLength)
	}
}

func TestTokenOfATextThatIsTooLong(t *testing.T) {
	for name, change := range map[string]func(*callback.Grant){
		"id":         func(g *callback.Grant) { g.ID = strings.Repeat("x", 65) },
		"app":        func(g *callback.Grant) { g.App = strings.Repeat("x", 65) },
		"capability": func(g *callback.Grant) { g.Capability = strings.Repeat("x", 65) },
		"origin":     func(g *callback.Grant) { g.Origin = strings.Repeat("x", 97) },
	} {
		g := grant
		change(&g)
		if dst, ok := issuer.Append([]byte("kept"), g, now); ok || string(dst) != "kept" {
			t.Errorf("%s: %q %v", name, dst, ok)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	token := issue(t, issuer, grant)
	other := callback.NewIssuer([]byte("another key"), 0)
	for name, tc := range map[string]struct {
		token string
		at    time.Duration
		want  error
	}{
		"nothing":             {"", 0, callback.ErrCut},
		"cut at the end":      {token[:len(token)-1], 0, callback.ErrCut},
		"cut by half":         {token[:len(token)/2], 0, callback.ErrCut},
		"cut at the front":    {token[1:], 0, nil}, // either
		"longer":              {token + "AAAA", 0, callback.ErrCut},
		"far too long":        {strings.Repeat("A", 1<<20), 0, callback.ErrCut},
		"not base64":          {"%" + token[1:], 0, callback.ErrCut},
		"with padding":        {token + "==", 0, callback.ErrCut},
		"with a line break":   {token[:8] + "\n" + token[8:], 0, callback.ErrCut},
		"of another key":      {issue(t, other, grant), 0, callback.ErrWrong},
		"of another version":  {"Ag" + token[2:], 0, callback.ErrWrong},
		"a second before":     {token, callback.Validity - time.Second, errNone},
		"in its last moment":  {token, callback.Validity, callback.ErrExpired},
		"long after":          {token, 1000 * time.Hour, callback.ErrExpired},
		"expired and changed": {flip(token, len(token)/2), 1000 * time.Hour, nil}, // never expired
	} {
		t.Run(name, func(t *testing.T) {
			_, err := issuer.Read(tc.token, now.Add(tc.at))
			switch {
			case tc.want == nil:
				if !errors.Is(err, callback.ErrCut) && !errors.Is(err, callback.ErrWrong) {
					t.Errorf("%v, want cut or wrong", err)
				}
			case errors.Is(tc.want, errNone):
				if err != nil {
					t.Error(err)
				}
			case !errors.Is(err, tc.want):
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
}

var errNone = errors.New("no error")

// flip changes the token's character at i.
func flip(token string, i int) string {
	c := byte('A')
	if token[i] == c {
		c = 'B'
	}
	return token[:i] + string(c) + token[i+1:]
}

// Every character counts: nothing of a token can be changed, its expiry least of all.
func TestEveryCharacterIsBound(t *testing.T) {
	token := issue(t, issuer, grant)
	for i := range token {
		if _, err := issuer.Read(flip(token, i), now); err == nil {
			t.Errorf("still good with character %d changed", i)
		}
	}
}

func TestIssuerIsSafeForConcurrentUse(t *testing.T) {
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			g := grant
			g.ID = fmt.Sprint(n)
			for range 500 {
				token, _ := issuer.Append(nil, g, now)
				if got, err := issuer.Read(string(token), now); err != nil || got.ID != g.ID {
					t.Errorf("%+v %v", got, err)
				}
			}
		})
	}
	all.Wait()
}

func ExampleIssuer() {
	issuer := callback.NewIssuer([]byte("from the replica's master key"), time.Hour)
	issued := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	token, _ := issuer.Append(nil, callback.Grant{ID: "order-17", Origin: "dk3j-42", Capability: "analytics", App: "quiz"}, issued)

	g, err := issuer.Read(string(token), issued.Add(time.Minute))
	fmt.Println(g.App, g.Capability, g.ID, err)
	_, err = issuer.Read(string(token), issued.Add(2*time.Hour))
	fmt.Println(err)
	// Output:
	// quiz analytics order-17 <nil>
	// the token has expired: it was good until 2026-03-01T13:00:00Z
}

// FuzzRead: whatever comes in a URL neither panics nor passes, unless it is a
// token that was issued, in its one spelling.
func FuzzRead(f *testing.F) {
	token := issue(f, issuer, grant)
	f.Add(token)
	f.Add("")
	f.Add(token[:20])
	f.Add(flip(token, 10))
	f.Fuzz(func(t *testing.T, s string) {
		g, err := issuer.Read(s, now)
		if err != nil {
			return
		}
		again, ok := issuer.Append(nil, g, g.Expires.Add(-callback.Validity))
		if !ok || string(again) != s {
			t.Errorf("%q passes as %+v, whose token is %q", s, g, again)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	buf := make([]byte, 0, callback.MaxLength)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = issuer.Append(buf[:0], grant, now)
	}
}
