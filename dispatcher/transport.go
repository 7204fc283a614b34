package dispatcher

import (
	"crypto/tls"
	"net/http"
	"time"
)

const (
	// maxHeaderBytes is the most of an answer's headers that is read; a flood
	// of 1xx answers counts in it.
	maxHeaderBytes = 64 << 10
	// tlsSessions is how many hosts' sessions are kept, for a short handshake
	// the next time. One takes about 2 KB.
	tlsSessions = 1024
	// A connection that HTTP/2 shares among many requests, and that nobody
	// answers on, is found out by a ping.
	pingAfter   = 15 * time.Second
	pingTimeout = 5 * time.Second
)

// newTransport returns a transport that makes each request once and as it is:
// no proxy, no compression, no redirects (those are a Client's). When it
// sends a request again is up to outgoing.again.
func newTransport(cfg PosterConfig, guard *Guard) *http.Transport {
	return &http.Transport{
		DialContext:         guard.dial,
		TLSHandshakeTimeout: dialTimeout, // as for the dial
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			RootCAs:            cfg.RootCAs,
			ClientSessionCache: tls.NewLRUClientSessionCache(tlsSessions),
		},
		// With a dialer of its own net/http leaves HTTP/2 off unless told.
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		DisableCompression:     true,
		MaxIdleConns:           cfg.MaxIdleConns,
		MaxIdleConnsPerHost:    cfg.MaxIdleConnsPerHost,
		IdleConnTimeout:        cfg.IdleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
}
