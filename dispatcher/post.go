package dispatcher

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"backstop/streams/killpoint"
)

// PosterConfig says how requests are made. Its zero value is ready to use, and
// reaches the public internet only.
type PosterConfig struct {
	// AllowedNetworks are what may be reached beside the public internet.
	// Defaults to none.
	AllowedNetworks []netip.Prefix
	// UserAgent is the User-Agent header. Defaults to "Backstop".
	UserAgent string
	// RootCAs are whose certificates are trusted. Defaults to the system's.
	RootCAs *x509.CertPool
	// MaxIdleConnsPerHost is how many connections to one host wait for their
	// next request. Fewer than there are attempts in flight to a host means
	// that many dials. Defaults to 256.
	MaxIdleConnsPerHost int
	// MaxIdleConns is how many connections wait in all, each with two
	// goroutines and some 25 KB; the one that has waited longest goes first.
	// Defaults to 1024.
	MaxIdleConns int
	// IdleTimeout is how long a connection waits for its next request.
	// Defaults to 4 s: below the 5 s after which many servers (Node.js,
	// uvicorn) hang up, because a request that is sent while the server hangs
	// up has failed, and must not be sent again unasked.
	IdleTimeout time.Duration
}

func (c *PosterConfig) setDefaults() {
	if c.UserAgent == "" {
		c.UserAgent = "Backstop"
	}
	if c.MaxIdleConnsPerHost <= 0 {
		c.MaxIdleConnsPerHost = 256
	}
	if c.MaxIdleConns <= 0 {
		c.MaxIdleConns = 1024
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = 4 * time.Second
	}
}

// Poster makes the requests themselves. It is safe for concurrent use.
type Poster struct {
	transport *http.Transport
	targets   targets
	bodies    bodies
	userAgent []string
	json      []string
}

// NewPoster returns a Poster.
func NewPoster(cfg PosterConfig) *Poster {
	cfg.setDefaults()
	return &Poster{
		transport: newTransport(cfg, NewGuard(cfg.AllowedNetworks)),
		userAgent: []string{cfg.UserAgent},
		json:      []string{"application/json"},
	}
}

// Close closes the connections that wait for a request. Those in use are
// closed when their requests end.
func (p *Poster) Close() { p.transport.CloseIdleConnections() }

// Post is the Handler at the end of the chain: it makes the request and says
// what came of it. It returns by ctx's deadline, whatever the app does.
func (p *Poster) Post(ctx context.Context, c Call) Outcome {
	if err := ctx.Err(); err != nil {
		return tooLate(err)
	}
	start := time.Now()
	req, out, err := p.request(ctx, c, start)
	if err != nil {
		return Outcome{
			Verdict: Retry, Reason: ReasonLocal,
			Err: fmt.Errorf("the webhook's URL can't be used; correct the app's manifest: %w", err),
		}
	}
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return failed(ctx, err, out.progress(), time.Since(start))
	}
	killpoint.Here(killpoint.RequestSent)
	buf := p.bodies.get()
	defer p.bodies.free.Put(buf)
	a := readAnswer(resp, buf)
	if !a.whole() {
		outcome := failed(ctx, a.cut, answered, time.Since(start))
		outcome.Status = a.status
		return outcome
	}
	return classify(c.Sync, a, time.Now())
}

// tooLate is the outcome when there is no time left to even begin.
func tooLate(err error) Outcome {
	out := Outcome{Verdict: Retry, Reason: ReasonLocal, Err: errors.New("stopped before the request was made")}
	if errors.Is(err, context.DeadlineExceeded) {
		out.Reason, out.Err = ReasonTimeout, errors.New("no time was left to make the request")
	}
	return out
}
