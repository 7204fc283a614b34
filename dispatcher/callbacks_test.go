package dispatcher

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"backstop/dispatcher/callback"
	"backstop/streams"
	"backstop/streams/manifest"
)

var callbackIssuer = callback.NewIssuer([]byte("a key"), 0)

// callbackURL runs the stage and returns the header that it sets.
func callbackURL(t testing.TB, base string, c Call) (url string) {
	t.Helper()
	h := Chain(func(_ context.Context, c Call) Outcome {
		url = c.Header.Get("X-Callback-URL")
		return Outcome{Verdict: Delivered}
	}, Callback(callbackIssuer, base))
	if out := h(t.Context(), c); out.Verdict != Delivered {
		t.Fatalf("the stage changed the outcome: %+v", out)
	}
	return url
}

func callbackCall(change func(*Call)) Call {
	id := streams.EndpointID{Capability: "analytics", App: "quiz"}
	c := Call{
		Event:    streams.Event{ID: "id-1", Origin: "o-1", EndpointID: id},
		Endpoint: manifest.Endpoint{EndpointID: id}, Attempt: 1,
	}
	if change != nil {
		change(&c)
	}
	return c
}

func TestCallbackSaysWhereTheResultMayBeSent(t *testing.T) {
	for name, tc := range map[string]struct {
		base, want string
		change     func(*Call)
		awaited    bool
		origin     string // empty: any
	}{
		"event":           {base: "https://b.example", want: "https://b.example/callbacks/", origin: "o-1"},
		"base with path":  {base: "https://b.example/hooks/", want: "https://b.example/hooks/callbacks/", origin: "o-1"},
		"call":            {base: "http://b", want: "http://b/callbacks/", change: func(c *Call) { c.Sync, c.Event.Origin = true, "" }},
		"demanded":        {base: "http://b", want: "http://b/callbacks/", origin: "o-1", awaited: true, change: demand},
		"never of a call": {base: "http://b", want: "http://b/callbacks/", origin: "o-1", change: func(c *Call) { demand(c); c.Sync = true }},
	} {
		t.Run(name, func(t *testing.T) {
			url := callbackURL(t, tc.base, callbackCall(tc.change))
			token, ok := strings.CutPrefix(url, tc.want)
			if !ok {
				t.Fatalf("%q, want %s and a token", url, tc.want)
			}
			g, err := callbackIssuer.Read(token, time.Now())
			if err != nil || g.ID != "id-1" || g.App != "quiz" || g.Capability != "analytics" || g.Awaited != tc.awaited ||
				g.Origin == "" || tc.origin != "" && g.Origin != tc.origin {
				t.Errorf("%+v %v", g, err)
			}
		})
	}
}

func demand(c *Call) { c.Endpoint.Callback = manifest.CallbackPolicy{Within: time.Minute} }

// Two calls with one id are two permissions: a call has no origin of its own.
func TestCallbackTellsCallsApart(t *testing.T) {
	call := callbackCall(func(c *Call) { c.Sync, c.Event.Origin = true, "" })
	origins := map[string]bool{}
	for range 2 {
		url := callbackURL(t, "http://b", call)
		g, err := callbackIssuer.Read(url[strings.LastIndexByte(url, '/')+1:], time.Now())
		if err != nil {
			t.Fatal(err)
		}
		origins[g.Origin] = true
	}
	if len(origins) != 2 {
		t.Errorf("two calls share the origin: %v", origins)
	}
}

// An event that no token can be made for goes out without one.
func TestCallbackLeavesOutWhatItCantMake(t *testing.T) {
	long := callbackCall(func(c *Call) { c.Event.Origin = strings.Repeat("x", 100) })
	if url := callbackURL(t, "http://b", long); url != "" {
		t.Errorf("%q", url)
	}
}

// A manifest can't set the header, and the one that is set goes out.
func TestCallbackHeaderIsBackstopsOwn(t *testing.T) {
	var got []string
	call := callbackCall(func(c *Call) {
		c.Endpoint.Headers = map[string]string{"x-callback-URL": "https://evil.example"}
	})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Values("X-Callback-URL") }))
	defer srv.Close()
	call.Endpoint.URL, call.Endpoint.Timeout = srv.URL, time.Minute
	Chain(newPoster(t, PosterConfig{AllowedNetworks: loopback}).Post, Callback(callbackIssuer, "http://b"))(t.Context(), call)
	if len(got) != 1 || !strings.HasPrefix(got[0], "http://b/callbacks/") {
		t.Errorf("X-Callback-URL: %q", got)
	}
}

func BenchmarkCallback(b *testing.B) {
	h := Chain(func(context.Context, Call) Outcome { return Outcome{} },
		Callback(callbackIssuer, "https://hooks.example.com"))
	call := callbackCall(nil)
	call.Header = make(http.Header, 14)
	b.ReportAllocs()
	for b.Loop() {
		h(b.Context(), call)
	}
}
