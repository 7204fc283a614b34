package dispatcher

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// rawConn is a connection to a rawServer.
type rawConn struct {
	*net.TCPConn
	gone <-chan struct{} // closed at the end of the test
}

// hung returns when the test is over, without reading or writing.
func hung(c net.Conn) { <-c.(rawConn).gone }

func reset(c net.Conn) {
	_ = c.(rawConn).SetLinger(0)
	c.Close()
}

// rawServer accepts TCP connections and gives each to handle, which may do
// with it what it likes. It returns the URL.
func rawServer(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	gone := make(chan struct{})
	wg.Go(func() {
		for {
			accepted, err := l.Accept()
			if err != nil {
				return
			}
			c := rawConn{accepted.(*net.TCPConn), gone}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(gone)
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

// readRequest reads one whole request; nil when the client has gone.
func readRequest(r *bufio.Reader) *http.Request {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return nil
	}
	return req
}

// answering returns a handler that reads a request and then writes.
func answering(write func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		if readRequest(bufio.NewReader(c)) != nil {
			write(c)
		}
	}
}

// forever writes the same until the client has gone.
func forever(c net.Conn, what string) {
	for {
		if _, err := io.WriteString(c, what); err != nil {
			return
		}
	}
}

// trickle writes the same, a little at a time, until the client has gone.
func trickle(c net.Conn, what string) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := io.WriteString(c, what); err != nil {
			return
		}
	}
}

// untilClosed waits until the client has hung up.
func untilClosed(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// bomb is a gzip of 64 MiB of zeros.
func bomb() string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.CopyN(z, zeros{}, 64<<20)
	_ = z.Close()
	return b.String()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestHostileReceivers(t *testing.T) {
	const (
		short  = 250 * time.Millisecond // for those who never end
		long   = 20 * time.Second       // for those of whom something is seen, however busy the machine
		begun  = 8 * time.Second        // for those who never end what they have begun: all of it is waited for
		margin = 3 * time.Second        // for two busy cores
	)
	timeout := verdict{Retry, Failure, ReasonTimeout, true, 0}
	broken := verdict{Retry, Failure, ReasonConnection, true, 0}
	at := func(v verdict, status int) verdict { v.Status = status; return v }
	status := func(v Verdict, e Effect, code int) verdict { return verdict{v, e, ReasonStatus, true, code} }
	delivered := verdict{Delivered, Success, "", true, 200}
	badResponse := verdict{Rejected, Failure, ReasonBadResponse, true, 200}
	squashed := bomb()

	tests := []struct {
		name        string
		handle      func(net.Conn)
		event, call verdict
		payload     int  // bytes; 0 for the usual one
		tls         bool // speak TLS to it
		endless     bool // what it answers never ends
	}{
		{name: "hangs before it reads", handle: hung, event: timeout, call: timeout},
		{name: "never reads a big payload", handle: hung, event: timeout, call: timeout, payload: 32 << 20},
		{name: "hangs after the request", handle: answering(untilClosed), event: timeout, call: timeout},
		{name: "hangs in the TLS handshake", handle: untilClosed, event: timeout, call: timeout, tls: true},
		{
			name:   "trickles a header",
			handle: answering(func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nX-A: "); trickle(c, "x") }),
			event:  timeout, call: timeout,
		},
		{
			name:   "sends headers without end",
			handle: answering(func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n"); forever(c, "X-A: b\r\n") }),
			event:  broken, call: broken,
		},
		{
			name: "sends one huge header",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nX-A: ")
				forever(c, strings.Repeat("x", 1024))
			}),
			event: broken, call: broken,
		},
		{
			name:   "floods with 1xx",
			handle: answering(func(c net.Conn) { forever(c, "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n") }),
			event:  broken, call: broken,
		},
		{
			name:   "trickles 1xx",
			handle: answering(func(c net.Conn) { trickle(c, "HTTP/1.1 102 Processing\r\n\r\n") }),
			event:  timeout, call: timeout,
		},
		{
			name:   "trickles a body",
			handle: answering(func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); trickle(c, "x") }),
			event:  at(timeout, 200), call: at(timeout, 200),
		},
		{
			name: "sends a body without end",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				forever(c, strings.Repeat("x", 1024))
			}),
			event: delivered, call: badResponse,
		},
		{
			name: "sends chunks without end",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				forever(c, "400\r\n"+strings.Repeat("x", 1024)+"\r\n")
			}),
			event: delivered, call: badResponse,
		},
		{
			name: "says success at the beginning of a body without end",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n{\"success\":true,\"data\":\"")
				forever(c, strings.Repeat("x", 1024))
			}),
			event: delivered, call: badResponse,
		},
		{
			name:   "trickles the body of an error",
			handle: answering(func(c net.Conn) { io.WriteString(c, "HTTP/1.1 500 Oops\r\n\r\n"); trickle(c, "x") }),
			event:  status(Retry, Failure, 500), call: status(Retry, Failure, 500),
			endless: true,
		},
		{
			name: "accepts and trickles on",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 202 Accepted\r\n\r\n")
				trickle(c, "x")
			}),
			event: at(delivered, 202), call: at(delivered, 202),
			endless: true,
		},
		{
			name: "sends a gzip bomb",
			handle: answering(func(c net.Conn) {
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(squashed), squashed)
			}),
			event: delivered, call: badResponse,
		},
		{
			name: "resets within the body",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"success\":true")
				reset(c)
			}),
			event: at(broken, 200), call: at(broken, 200),
		},
		{
			name:   "resets after the request",
			handle: answering(reset),
			event:  broken, call: broken,
		},
		{name: "resets at once", handle: reset, event: broken, call: broken},
		{name: "closes at once", handle: func(net.Conn) {}, event: broken, call: broken},
		{name: "closes without an answer", handle: answering(func(net.Conn) {}), event: broken, call: broken},
		{
			name: "promises more than it sends",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"success\":true}")
			}),
			event: at(broken, 200), call: at(broken, 200),
		},
		{
			name: "promises more than it sends, and waits",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"success\":true}")
				untilClosed(c)
			}),
			event: at(timeout, 200), call: at(timeout, 200),
		},
		{
			name: "sends more than it promises",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"success\":true}HTTP/1.1 500 smuggled\r\n\r\n")
				untilClosed(c)
			}),
			event: delivered, call: delivered,
		},
		{
			name: "gives two lengths",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 16\r\n\r\n{\"success\":true}")
			}),
			event: broken, call: broken,
		},
		{
			name: "gives a negative length",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{\"success\":true}")
			}),
			event: broken, call: broken,
		},
		{
			name: "sends chunks that are none",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{\"success\":true}\r\n0\r\n\r\n")
			}),
			event: at(broken, 200), call: at(broken, 200),
		},
		{
			name: "redirects",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/latest/meta-data/\r\nContent-Length: 0\r\n\r\n")
			}),
			event: status(Rejected, Failure, 307), call: status(Rejected, Failure, 307),
		},
		{
			name: "switches protocols",
			handle: answering(func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
				untilClosed(c)
			}),
			event: status(Retry, Failure, 101), call: status(Retry, Failure, 101),
		},
		{
			name:   "answers with a status that HTTP doesn't know",
			handle: answering(func(c net.Conn) { io.WriteString(c, "HTTP/1.1 999 Who Knows\r\nContent-Length: 0\r\n\r\n") }),
			event:  status(Retry, Failure, 999), call: status(Retry, Failure, 999),
		},
		{
			name: "answers before it has read all",
			handle: func(c net.Conn) {
				_, _ = http.ReadRequest(bufio.NewReader(c))
				io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
				hung(c)
			},
			event: status(Rejected, NotCounted, 413), call: status(Rejected, NotCounted, 413), payload: 32 << 20,
		},
		{name: "speaks SSH", handle: func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH_9.6\r\n"); untilClosed(c) }, event: broken, call: broken},
		{name: "speaks HTTP where TLS was expected", handle: func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); untilClosed(c) }, event: broken, call: broken, tls: true},
		{
			name:   "speaks HTTP/2 unasked",
			handle: answering(func(c net.Conn) { c.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}); untilClosed(c) }),
			event:  timeout, call: timeout,
		},
	}
	for _, test := range tests {
		for kind, want := range map[bool]verdict{false: test.event, true: test.call} {
			t.Run(fmt.Sprintf("%s/sync=%v", test.name, kind), func(t *testing.T) {
				t.Parallel()
				url := rawServer(t, test.handle)
				if test.tls {
					url = strings.Replace(url, "http:", "https:", 1)
				}
				p := newPoster(t, PosterConfig{})
				c := callTo(url)
				c.Sync = kind
				if test.payload > 0 {
					c.Event.Payload = make([]byte, test.payload)
				}
				patience := long
				switch {
				case want.Reason == ReasonTimeout:
					patience = short
				case test.endless:
					patience = begun
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				start := time.Now()
				out := p.Post(ctx, c)
				if took := time.Since(start); took > patience+margin {
					t.Errorf("took %v with a timeout of %v", took, patience)
				}
				expectVerdict(t, out, want)
				if len(out.Body) > MaxLoggedBody {
					t.Errorf("%d bytes of body", len(out.Body))
				}
			})
		}
	}
}

// Each attempt leaves nothing behind, whatever cut it off.
func TestNoGoroutinesAreLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("attempts", func(t *testing.T) {
		urls := []string{
			rawServer(t, untilClosed),
			rawServer(t, answering(untilClosed)),
			rawServer(t, answering(func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); trickle(c, "x") })),
			strings.Replace(rawServer(t, untilClosed), "http:", "https:", 1),
			"http://127.0.0.1:" + closedPort(t),
		}
		p := newPoster(t, PosterConfig{})
		var wg sync.WaitGroup
		for _, url := range urls {
			for range 20 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
					defer cancel()
					c := callTo(url)
					c.Event.Payload = make([]byte, 1<<20)
					p.Post(ctx, c)
				})
			}
		}
		wg.Wait()
		p.Close()
		expectNoTransport(t) // while the servers still hold on to their side
	})
	goleak.VerifyNone(t, before)
}

func TestTLS(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"success":true,"data":%d}`, r.ProtoMajor)
	})
	start := func(t *testing.T, configure func(*httptest.Server)) (*httptest.Server, PosterConfig) {
		t.Helper()
		srv := httptest.NewUnstartedServer(answer)
		srv.Config.ErrorLog = quiet
		if configure != nil {
			configure(srv)
		}
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return srv, PosterConfig{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	}
	expect := func(t *testing.T, srv *httptest.Server, cfg PosterConfig, want verdict, data string) {
		t.Helper()
		out := newPoster(t, cfg).Post(t.Context(), callTo(srv.URL))
		expectVerdict(t, out, want)
		if string(out.Data) != data {
			t.Errorf("HTTP/%s, want HTTP/%s", out.Data, data)
		}
	}
	delivered := verdict{Delivered, Success, "", true, 200}
	broken := verdict{Retry, Failure, ReasonConnection, true, 0}
	t.Run("a certificate that nobody signed", func(t *testing.T) {
		srv, _ := start(t, nil)
		expect(t, srv, PosterConfig{}, broken, "")
	})
	t.Run("one that is trusted", func(t *testing.T) {
		srv, cfg := start(t, nil)
		expect(t, srv, cfg, delivered, "1")
	})
	t.Run("HTTP/2 where the server has it", func(t *testing.T) {
		srv, cfg := start(t, func(s *httptest.Server) { s.EnableHTTP2 = true })
		expect(t, srv, cfg, delivered, "2")
	})
	t.Run("for another name", func(t *testing.T) {
		srv, cfg := start(t, nil)
		srv.URL = strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
		expect(t, srv, cfg, broken, "")
	})
	t.Run("TLS 1.1 at most", func(t *testing.T) {
		srv, cfg := start(t, func(s *httptest.Server) {
			s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		})
		expect(t, srv, cfg, broken, "")
	})
	t.Run("TLS 1.2 at most", func(t *testing.T) {
		srv, cfg := start(t, func(s *httptest.Server) { s.TLS = &tls.Config{MaxVersion: tls.VersionTLS12} })
		expect(t, srv, cfg, delivered, "1")
	})
	t.Run("HTTP/2 that hangs", func(t *testing.T) {
		release := make(chan struct{})
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-release
		}))
		srv.EnableHTTP2 = true
		srv.StartTLS()
		defer srv.Close()
		defer close(release)
		p := newPoster(t, PosterConfig{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		expectVerdict(t, p.Post(ctx, callTo(srv.URL)), verdict{Retry, Failure, ReasonTimeout, true, 200})
	})
}
