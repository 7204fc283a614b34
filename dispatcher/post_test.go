package dispatcher

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var quiet = log.New(io.Discard, "", 0)

const yes = `{"success":true}`

// expectNoTransport fails if goroutines of an http.Transport are still there.
func expectNoTransport(t *testing.T) {
	t.Helper()
	buf := make([]byte, 1<<20)
	var found string
	eventually(t, "the transport's goroutines end", func() bool {
		found = string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(found, "net/http.(*persistConn)") && !strings.Contains(found, "net/http.(*Transport).dialConn")
	})
}

// eventually polls until the condition holds, and fails the test when it
// doesn't within 5 s.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("did not come about: %s", what)
		}
	}
}

// counted starts a server that counts the connections that were made to it and
// those that are open.
func counted(t testing.TB, h http.Handler) (srv *httptest.Server, made, open *atomic.Int64) {
	t.Helper()
	made, open = new(atomic.Int64), new(atomic.Int64)
	srv = httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = quiet
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			made.Add(1)
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	return srv, made, open
}

func TestRequest(t *testing.T) {
	var head string
	var payload []byte
	url := rawServer(t, func(c net.Conn) {
		var seen bytes.Buffer
		req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, &seen)))
		if err != nil {
			t.Error(err)
			return
		}
		payload, _ = io.ReadAll(req.Body)
		head, _, _ = strings.Cut(seen.String(), "\r\n\r\n")
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	p := newPoster(t, PosterConfig{UserAgent: "Backstop/1.2.3"})
	c := callTo(url + "/api/hook?x=1")
	c.Event.Payload = []byte("{\"n\":\t1, \"s\":\"\u00e9\"}\n")
	c.Event.TraceParent, c.Event.TraceState = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=b"
	c.Attempt = 3
	c.SetHeader("X-Callback-URL", "https://hooks.example.com/cb")
	c.Endpoint.Headers = map[string]string{
		"X-Tenant": "acme", "authorization": "Bearer of-the-app",
		// Ours stay ours, however they are spelt.
		"content-type": "text/plain", "USER-AGENT": "x", "x-request-id": "x", "X-Timeout-Ms": "x", "X-Platform-App": "x",
		"x-platform-signature": "x", "X-Platform-Whatever": "x", "Webhook-Id": "x", "webhook-signature": "x", "X-Callback-Url": "x", "traceparent": "x",
		// These would change how the request is sent.
		"Host": "elsewhere", "Content-Length": "1", "Transfer-Encoding": "chunked", "Connection": "close", "Accept-Encoding": "gzip",
		"Expect": "100-continue", "Idempotency-Key": "k", "X-Idempotency-Key": "k", "Proxy-Authorization": "x", "Upgrade": "x", "TE": "trailers",
		// These can't be sent.
		"": "x", "with space": "x", "X-Bad": "a\r\nX-Injected: 1", "X-Héader": "x",
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	expectVerdict(t, p.Post(ctx, c), verdict{Delivered, Success, "", true, 200})

	lines := strings.Split(head, "\r\n")
	if want := "POST /api/hook?x=1 HTTP/1.1"; lines[0] != want {
		t.Errorf("%q, want %q", lines[0], want)
	}
	got := map[string]string{}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		if _, twice := got[strings.ToLower(name)]; twice {
			t.Errorf("%s is there twice", name)
		}
		got[strings.ToLower(name)] = value
	}
	ms, err := strconv.Atoi(got["x-timeout-ms"])
	if err != nil || ms > 2000 || ms < 1000 {
		t.Errorf("X-Timeout-Ms: %q, want what is left of 2000", got["x-timeout-ms"])
	}
	delete(got, "x-timeout-ms")
	want := map[string]string{
		"host": strings.TrimPrefix(url, "http://"), "content-type": "application/json", "content-length": strconv.Itoa(len(c.Event.Payload)),
		"user-agent": "Backstop/1.2.3", "x-request-id": "evt_1", "x-platform-app": "quiz", "x-platform-capability": "analytics",
		"x-platform-attempt": "3", "traceparent": c.Event.TraceParent, "tracestate": "a=b", "x-callback-url": "https://hooks.example.com/cb",
		"x-tenant": "acme", "authorization": "Bearer of-the-app",
	}
	if !maps.Equal(got, want) {
		t.Errorf("headers\n%v, want\n%v", got, want)
	}
	if !bytes.Equal(payload, c.Event.Payload) {
		t.Errorf("payload %q, want %q", payload, c.Event.Payload)
	}
}

// What a publisher puts into the trace headers can't spoil the request.
func TestTraceHeadersThatCannotBeSent(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"success":true,"data":"%d %d"}`, len(r.Header.Get("Traceparent")), len(r.Header.Get("Tracestate")))
	}))
	defer srv.Close()
	p := newPoster(t, PosterConfig{})
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tests := []struct{ parent, state, want, reason string }{
		{parent, "a=b", "55 3", "both"},
		{parent, "", "55 0", "without a state"},
		{parent, "a\x00b", "55 0", "a state with a control character"},
		{parent, strings.Repeat("a", 513), "55 0", "a state longer than anybody takes"},
		{parent, strings.Repeat("a", 512), "55 512", "a long state"},
		{"00-\x7f", "a=b", "0 0", "a state is nothing without its parent"},
		{"", "a=b", "0 0", "no trace"},
	}
	for _, test := range tests {
		c := callTo(srv.URL)
		c.Event.TraceParent, c.Event.TraceState = test.parent, test.state
		out := p.Post(t.Context(), c)
		expectVerdict(t, out, verdict{Delivered, Success, "", true, 200})
		if string(out.Data) != `"`+test.want+`"` {
			t.Errorf("%s: lengths %s, want %s", test.reason, out.Data, test.want)
		}
	}
}

func TestNoTimeLeft(t *testing.T) {
	srv, made, _ := counted(t, http.NotFoundHandler())
	p := newPoster(t, PosterConfig{})
	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	expectVerdict(t, p.Post(expired, callTo(srv.URL)), verdict{Retry, NotCounted, ReasonTimeout, false, 0})
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	expectVerdict(t, p.Post(canceled, callTo(srv.URL)), verdict{Retry, NotCounted, ReasonLocal, false, 0})
	if n := made.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestURLsThatCannotBeUsed(t *testing.T) {
	p := newPoster(t, PosterConfig{})
	for _, url := range []string{"http://[::1", "http://a b/", "://"} {
		out := p.Post(t.Context(), callTo(url))
		expectVerdict(t, out, verdict{Retry, NotCounted, ReasonLocal, false, 0})
		if !strings.Contains(out.Err.Error(), "manifest") {
			t.Errorf("%s: %v doesn't say what to do", url, out.Err)
		}
	}
}

func TestClosedPort(t *testing.T) {
	p := newPoster(t, PosterConfig{})
	expectVerdict(t, p.Post(t.Context(), callTo("http://127.0.0.1:"+closedPort(t))), verdict{Retry, Failure, ReasonConnection, true, 0})
}

// A shutdown spends an attempt only if something of it was sent.
func TestShutdown(t *testing.T) {
	arrived := make(chan struct{}, 1)
	tests := []struct {
		name string
		url  string
		want verdict
	}{
		{"while the app is at work", rawServer(t, answering(func(c net.Conn) { arrived <- struct{}{}; untilClosed(c) })), verdict{Retry, NotCounted, ReasonLocal, true, 0}},
		{"while connecting", "https" + strings.TrimPrefix(rawServer(t, func(c net.Conn) { arrived <- struct{}{}; untilClosed(c) }), "http"), verdict{Retry, NotCounted, ReasonLocal, false, 0}},
		{"within the answer", rawServer(t, answering(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
			arrived <- struct{}{}
			untilClosed(c)
		})), verdict{Retry, NotCounted, ReasonLocal, true, 200}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newPoster(t, PosterConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			ended := make(chan Outcome, 1)
			go func() { ended <- p.Post(ctx, callTo(test.url)) }()
			<-arrived
			if test.want.Status != 0 {
				eventually(t, "the head of the answer arrives", func() bool { return inBody() })
			}
			cancel()
			expectVerdict(t, <-ended, test.want)
		})
	}
}

// inBody tells whether an attempt is reading a body.
func inBody() bool {
	buf := make([]byte, 1<<20)
	return bytes.Contains(buf[:runtime.Stack(buf, true)], []byte("dispatcher.readAnswer"))
}

// A process that has no files left can't tell anything about an app.
func TestNoFilesLeft(t *testing.T) {
	srv, made, _ := counted(t, http.NotFoundHandler())
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	highest := 0
	for _, f := range files {
		n, _ := strconv.Atoi(f.Name())
		highest = max(highest, n)
	}
	// Every number up to the limit is taken, so that there is no other left.
	var taken []*os.File
	defer func() {
		for _, f := range taken {
			f.Close()
		}
	}()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(highest + 1), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}()
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		taken = append(taken, f)
	}
	out := newPoster(t, PosterConfig{}).Post(t.Context(), callTo(srv.URL))
	expectVerdict(t, out, verdict{Retry, NotCounted, ReasonLocal, false, 0})
	if n := made.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	tests := []struct {
		reason string
		body   int
		want   int64 // connections for 20 requests
		flush  bool  // chunked
	}{
		{"an empty answer", 0, 1, false},
		{"a short one", 16, 1, false},
		{"a chunked one", 16, 1, true},
		{"a long one", 60_000, 1, false},
		{"as much as is read", maxAnswer, 1, false},
		{"as much as is read, chunked", maxAnswer, 1, true},
		{"more than is read", maxAnswer + 1, 20, false},
		{"much more than is read", 16 << 20, 20, true},
	}
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			srv, made, _ := counted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if test.flush {
					_ = http.NewResponseController(w).Flush()
				}
				_, _ = w.Write(bytes.Repeat([]byte(" "), test.body))
			}))
			p := newPoster(t, PosterConfig{})
			for range 20 {
				expectVerdict(t, p.Post(t.Context(), callTo(srv.URL)), verdict{Delivered, Success, "", true, 200})
			}
			if n := made.Load(); n != test.want {
				t.Errorf("%d connections for 20 requests, want %d", n, test.want)
			}
		})
	}
}

// About as many connections as there are workers, however long they work.
func TestConnectionsAreAsManyAsWorkers(t *testing.T) {
	srv, made, _ := counted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, yes)
	}))
	p := newPoster(t, PosterConfig{})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 50 {
				if out := p.Post(t.Context(), callTo(srv.URL)); out.Verdict != Delivered {
					t.Errorf("%+v", out)
				}
			}
		})
	}
	wg.Wait()
	if n := made.Load(); n > 100 { // a dial may be overtaken by a connection that comes free
		t.Errorf("%d connections for 32 workers and 1,600 requests", n)
	}
}

// Many hosts leave no more idle connections than the pool may hold, and after
// a while none. Every address of 127/8 is a host.
func TestPoolIsBounded(t *testing.T) {
	srv, made, open := counted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, yes)
	}))
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Config.Serve(l) })
	defer serving.Wait()
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	const hosts, pool = 1000, 50
	post := func(p *Poster, hosts int) {
		made.Store(0)
		for i := range hosts {
			out := p.Post(t.Context(), callTo(fmt.Sprintf("http://127.1.%d.%d:%s/hook", i/250, 1+i%250, port)))
			expectVerdict(t, out, verdict{Delivered, Success, "", true, 200})
		}
		if n := made.Load(); n != int64(hosts) {
			t.Errorf("%d connections to %d hosts", n, hosts)
		}
	}
	patient := newPoster(t, PosterConfig{MaxIdleConns: pool, IdleTimeout: time.Hour})
	post(patient, hosts)
	eventually(t, "the pool is within its bounds", func() bool { return open.Load() == pool })
	patient.Close()
	eventually(t, "the pool is empty", func() bool { return open.Load() == 0 })

	post(newPoster(t, PosterConfig{IdleTimeout: 100 * time.Millisecond}), 20)
	eventually(t, "idle connections are closed", func() bool { return open.Load() == 0 })
}

func TestCloseClosesIdleConnections(t *testing.T) {
	srv, _, open := counted(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, yes) }))
	p := newPoster(t, PosterConfig{IdleTimeout: time.Hour})
	p.Post(t.Context(), callTo(srv.URL))
	if n := open.Load(); n != 1 {
		t.Fatalf("%d connections open, want 1", n)
	}
	p.Close()
	eventually(t, "the connection is closed", func() bool { return open.Load() == 0 })
}

// An attempt is one request, and stays one when the app reads it and hangs up,
// on a new connection as on one that served before, and whatever headers the
// endpoint asks for.
func TestNothingIsSentTwice(t *testing.T) {
	var requests, served atomic.Int64
	url := rawServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for i := 0; readRequest(r) != nil; i++ {
			requests.Add(1)
			if i > 0 {
				return // the second on a connection finds nobody
			}
			served.Add(1)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	p := newPoster(t, PosterConfig{})
	c := callTo(url)
	c.Endpoint.Headers = map[string]string{"Idempotency-Key": "k", "X-Idempotency-Key": "k"}
	for i := range 40 {
		out := p.Post(t.Context(), c)
		want := verdict{Delivered, Success, "", true, 200}
		if i%2 == 1 {
			want = verdict{Retry, Failure, ReasonConnection, true, 0}
		}
		expectVerdict(t, out, want)
		if n := requests.Load(); n != int64(i+1) {
			t.Fatalf("%d requests after %d attempts", n, i+1)
		}
	}
	if served.Load() != 20 {
		t.Errorf("%d connections, want 20: the others were to be used again", served.Load())
	}
	empty := callTo(url)
	empty.Event.Payload = nil
	requests.Store(0)
	for range 10 {
		p.Post(t.Context(), empty)
	}
	if n := requests.Load(); n != 10 {
		t.Errorf("%d requests without a payload for 10 attempts", n)
	}
}

// A connection that the app closes between two requests costs no attempt.
func TestConnectionsThatCloseWhileIdle(t *testing.T) {
	closed := make(chan struct{})
	url := rawServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		if readRequest(r) == nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n"+yes)
		_ = c.(rawConn).CloseWrite()
		_, _ = io.Copy(io.Discard, r) // until the client has noticed
		closed <- struct{}{}
	})
	p := newPoster(t, PosterConfig{})
	for range 10 {
		expectVerdict(t, p.Post(t.Context(), callTo(url)), verdict{Delivered, Success, "", true, 200})
		<-closed
	}
}

// breakable is a connection that can be made to fail all writes.
type breakable struct {
	net.Conn
	broken atomic.Bool
}

func (c *breakable) Write(p []byte) (int, error) {
	if c.broken.Load() {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

// A connection that turns out to be dead before a byte was written costs no
// attempt: nobody can have seen the request, and another connection is taken.
func TestDeadConnectionIsReplaced(t *testing.T) {
	var requests atomic.Int64
	srv, made, _ := counted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"success":true,"data":%s}`, body)
	}))
	p := newPoster(t, PosterConfig{})
	var last *breakable
	dial := p.transport.DialContext
	p.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		last = &breakable{Conn: c}
		return last, err
	}
	for i := range 5 {
		out := p.Post(t.Context(), callTo(srv.URL))
		expectVerdict(t, out, verdict{Delivered, Success, "", true, 200})
		if !bytes.Equal(out.Data, callTo("").Event.Payload) {
			t.Errorf("the app saw %s", out.Data)
		}
		if n := requests.Load(); n != int64(i+1) || made.Load() != n {
			t.Errorf("%d requests on %d connections, want %d on as many", n, made.Load(), i+1)
		}
		last.broken.Store(true)
	}
}

func TestAnswersAreReadWhole(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 30_000, maxAnswer - 40} {
		data := `"` + strings.Repeat("x", size) + `"`
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for piece := range slices.Chunk([]byte(`{"success":true,"data":`+data+`}`), 1000) {
				_, _ = w.Write(piece)
				_ = http.NewResponseController(w).Flush()
			}
		}))
		out := newPoster(t, PosterConfig{}).Post(t.Context(), callTo(srv.URL))
		if string(out.Data) != data {
			t.Errorf("%d bytes of data, want %d", len(out.Data), len(data))
		}
		srv.Close()
	}
}

// Answers at the same time don't get into each other's buffers.
func TestAnswersAreTheirOwn(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"success":true,"data":%s}`, body)
	}))
	defer srv.Close()
	p := newPoster(t, PosterConfig{})
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 50 {
				c := callTo(srv.URL)
				c.Event.Payload = fmt.Appendf(nil, `"%d-%s"`, g, strings.Repeat("x", i*100))
				if out := p.Post(t.Context(), c); !bytes.Equal(out.Data, c.Event.Payload) {
					t.Errorf("sent %.20s, got %.20s", c.Event.Payload, out.Data)
				}
			}
		})
	}
	wg.Wait()
}

// More URLs than are kept parsed work all the same.
func TestTargets(t *testing.T) {
	var ts targets
	for i := range maxTargets + 10 {
		url := "http://app.test/" + strconv.Itoa(i)
		req, err := ts.get(url)
		if err != nil || req.URL.String() != url || req.Method != http.MethodPost {
			t.Fatalf("%s: %v %v", url, req, err)
		}
	}
	if n := len(ts.byURL); n > maxTargets {
		t.Errorf("%d are kept", n)
	}
}
