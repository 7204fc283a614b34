package dispatcher_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/dispatcher/limit"
	"backstop/dispatcher/sign"
	"backstop/streams"
	"backstop/streams/manifest"
)

// The whole chain, as cmd/backstop puts it together, and an app that checks
// the signature as apps should.
func Example() {
	secret := "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := sign.Verify(r.Header, body, time.Now(), secret); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		fmt.Println("the app got", r.Header.Get("X-Request-ID"), string(body))
		io.WriteString(w, `{"success":true,"data":{"counted":1}}`)
	}))
	defer app.Close()

	poster := dispatcher.NewPoster(dispatcher.PosterConfig{
		AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		UserAgent:       "Backstop/example",
	})
	defer poster.Close()
	deliver := dispatcher.Chain(poster.Post,
		dispatcher.Measure(dispatcher.NewMetrics(prometheus.NewRegistry())),
		dispatcher.Breaker(breaker.NewSet(nil)),
		dispatcher.Limit(limit.NewSet()),
		dispatcher.Timeout(),
		dispatcher.Sign(func(string) []string { return []string{secret} }),
	)

	id := streams.EndpointID{Capability: "analytics", App: "quiz"}
	out := deliver(context.Background(), dispatcher.Call{
		Event:    streams.Event{EndpointID: id, ID: "evt_1", Payload: []byte(`{"clicks":3}`)},
		Endpoint: manifest.Endpoint{EndpointID: id, URL: app.URL, Async: true, Timeout: 2 * time.Second, Concurrency: 10},
		Attempt:  1,
	})
	fmt.Println(out.Verdict, out.Status, string(out.Data))
	// Output:
	// the app got evt_1 {"clicks":3}
	// delivered 200 {"counted":1}
}
