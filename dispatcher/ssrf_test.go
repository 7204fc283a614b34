package dispatcher

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"backstop/streams/manifest"
)

// target is one line of testdata/ssrf/targets.txt.
type target struct {
	refused  string   // "manifest", "dial" or "never"
	url      string   // may be none
	resolves []string // what a resolver says of its host, for a name
	reason   string
}

func ssrfTargets(t testing.TB) []target {
	t.Helper()
	f, err := os.Open("../testdata/ssrf/targets.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []target
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "# ") {
			continue
		}
		columns := strings.Split(lines.Text(), "\t")
		if len(columns) != 4 || columns[3] == "" {
			t.Fatalf("not four columns with a reason: %q", lines.Text())
		}
		text, err := strconv.Unquote(`"` + columns[1] + `"`)
		if err != nil {
			t.Fatalf("%v in %q", err, lines.Text())
		}
		c := target{refused: columns[0], url: text, reason: columns[3]}
		if columns[2] != "" {
			c.resolves = strings.Split(columns[2], ",")
		}
		all = append(all, c)
	}
	return all
}

// What the manifest says of each target, and that the guard says the same of
// every address that is written as one.
func TestSSRFTargetsInManifests(t *testing.T) {
	count := map[string]int{}
	guard := NewGuard(nil)
	for _, c := range ssrfTargets(t) {
		count[c.refused]++
		quoted, err := json.Marshal(c.url)
		if err != nil {
			t.Fatal(err)
		}
		_, err = manifest.Parse([]byte(`{"appId":"quiz","baseUrl":`+string(quoted)+`,"webhooks":{"quizAnswer":{"path":"/answer"}}}`), manifest.Options{})
		if (err != nil) != (c.refused == "manifest") {
			t.Errorf("%q: the manifest says %v, want refused: %s (%s)", c.url, err, c.refused, c.reason)
		}
		addrs := c.resolves
		if u, err := url.Parse(c.url); err == nil && addrs == nil {
			addrs = []string{u.Hostname()}
		}
		for _, text := range addrs {
			// A URL may be wrong for more than its address.
			if addr, err := netip.ParseAddr(text); err == nil {
				if err := guard.Check(addr); (err == nil) != (c.refused == "never") {
					t.Errorf("%q: the guard says %v of %s, want refused: %s (%s)", c.url, err, addr, c.refused, c.reason)
				}
			}
		}
	}
	if inside := count["manifest"] + count["dial"]; inside < 150 || count["dial"] < 20 || count["never"] < 20 {
		t.Errorf("the corpus has shrunk: %v", count)
	}
}

// outside is an address of this machine that stands for the public internet.
const outside = "127.0.0.77"

// inside listens on every address of this machine and counts who connects.
func inside(t *testing.T) (port string, accepted *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	count := new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, count
}

// watched returns a poster that may reach outside alone, asks the resolver for
// names, and finds every other host at the given port. It counts what it dials
// beside outside, and the connections that came of that.
func watched(t *testing.T, names *net.Resolver, port string) (p *Poster, dialled, connected *atomic.Int64) {
	t.Helper()
	p, dialled, connected = NewPoster(PosterConfig{}), new(atomic.Int64), new(atomic.Int64)
	t.Cleanup(p.Close)
	guard := NewGuard(prefixes(outside + "/32"))
	guard.resolver = names
	p.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			t.Errorf("dialling %q: %v", addr, err)
		}
		if host == outside {
			return guard.dial(ctx, network, addr)
		}
		dialled.Add(1)
		conn, err := guard.dial(ctx, network, net.JoinHostPort(host, port))
		if err == nil {
			connected.Add(1)
		}
		return conn, err
	}
	return p, dialled, connected
}

// asLibc reads what inet_aton of the C library reads, which some resolvers
// hand every name to: the worst that can be asked.
func asLibc(name string) (netip.Addr, bool) {
	parts := strings.Split(name, ".")
	var value uint64
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 0, 64)
		if err != nil || len(parts) > 4 {
			return netip.Addr{}, false
		}
		if rest := 4 - i; i == len(parts)-1 {
			value = value<<(8*rest) | n
		} else {
			value = value<<8 | n&0xff
		}
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

// resolver answers for the names of the corpus, and reads numbers as libc does.
func resolver(t *testing.T, targets []target) *net.Resolver {
	t.Helper()
	hosts := map[string][]string{"quiz.example.com": {"127.0.0.1"}}
	for _, c := range targets {
		if u, err := url.Parse(c.url); err == nil && c.resolves != nil {
			hosts[strings.TrimSuffix(u.Hostname(), ".")] = c.resolves
		}
	}
	return nameServerOf(t, func(name string) ([]string, bool) {
		if addrs, known := hosts[name]; known {
			return addrs, true
		}
		if addr, ok := asLibc(name); ok {
			return []string{addr.String()}, true
		}
		return nil, false
	})
}

// The requests themselves: whatever a stored manifest holds, and whatever a
// name resolves to, no connection is made to an address that is refused.
func TestSSRFTargetsAreNeverConnectedTo(t *testing.T) {
	targets := ssrfTargets(t)
	port, accepted := inside(t)
	p, _, connected := watched(t, resolver(t, targets), port)
	var refused, unusable int
	for _, c := range targets {
		if c.refused == "never" {
			continue // nobody's machine on the internet is called by a test
		}
		if n := accepted.Load() + connected.Load(); n != 0 {
			t.Fatalf("%d connections made before %q, want none", n, c.url)
		}
		out := postWithin(t, p, 2*time.Second, c.url)
		switch {
		case out.Reason == ReasonBlockedAddress:
			refused++
			expectVerdict(t, out, verdict{Rejected, NotCounted, ReasonBlockedAddress, false, 0})
		case c.refused == "dial":
			t.Errorf("%q: %+v, want it refused by the guard (%s)", c.url, out, c.reason)
		case out.Verdict != Retry || out.Status != 0:
			t.Errorf("%q: %+v, want no answer (%s)", c.url, out, c.reason)
		default:
			unusable++ // no URL, or no host that could be looked up
		}
	}
	if n := accepted.Load() + connected.Load(); n != 0 {
		t.Errorf("%d connections were accepted and %d made, want none", accepted.Load(), connected.Load())
	}
	t.Logf("%d refused by the guard, %d without anything to dial", refused, unusable)
	if refused < 150 {
		t.Errorf("only %d targets came as far as the guard", refused)
	}
}

// postWithin bounds what a guard that is broken would wait for: an address that
// nobody answers at.
func postWithin(t *testing.T, p *Poster, most time.Duration, url string) Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	return p.Post(ctx, callTo(url))
}

// An app that may be called redirects to each of them: nothing is dialled.
func TestSSRFRedirectsAreNotFollowed(t *testing.T) {
	targets := ssrfTargets(t)
	l, err := net.Listen("tcp", outside+":0")
	if err != nil {
		t.Fatal(err)
	}
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i, _ := strconv.Atoi(r.URL.Query().Get("target"))
		w.Header()["Location"] = []string{targets[i].url}
		w.WriteHeader([]int{301, 302, 303, 307, 308, 300}[i%6])
	}))
	app.Listener.Close()
	app.Listener = l
	app.Start()
	defer app.Close()
	port, accepted := inside(t)
	p, dialled, _ := watched(t, resolver(t, targets), port)
	for i, c := range targets {
		out := p.Post(t.Context(), callTo(app.URL+"/?target="+strconv.Itoa(i)))
		if out.Verdict != Rejected || out.Status/100 != 3 || !out.Requested {
			t.Errorf("a redirect to %q: %+v (%s)", c.url, out, c.reason)
		}
	}
	if n := accepted.Load() + dialled.Load(); n != 0 {
		t.Errorf("%d dialled and %d accepted, want the redirects left alone", dialled.Load(), accepted.Load())
	}
}

// A name server that answers well first, and with an address inside ever
// after: what was checked is what is connected to.
func TestSSRFRebinding(t *testing.T) {
	l, err := net.Listen("tcp", outside+":0")
	if err != nil {
		t.Fatal(err)
	}
	var served atomic.Int64
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		w.Header().Set("Connection", "close") // so that each request dials anew
		_, _ = io.WriteString(w, yes)
	}))
	app.Listener.Close()
	app.Listener = l
	app.Start()
	defer app.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	// The same port on the address that is refused.
	var accepted atomic.Int64
	hidden, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Skipf("port %s of 127.0.0.1 is taken: %v", port, err)
	}
	trap := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { accepted.Add(1) }))
	trap.Listener.Close()
	trap.Listener = hidden
	trap.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			accepted.Add(1)
		}
	}
	trap.Start()
	defer trap.Close()

	for _, answers := range [][]string{
		{outside, "127.0.0.1"},                         // for the next request
		{"127.0.0.1", outside},                         // the other way round
		{outside, outside, "127.0.0.1"},                // for the second question of one dial, were there one
		{outside, "127.0.0.1", "169.254.169.254", "-"}, // and nothing at all
	} {
		var questions atomic.Int64
		names := nameServerOf(t, func(string) ([]string, bool) {
			// A and AAAA are asked at once; they share an answer.
			addr := answers[int(questions.Add(1)-1)/2%len(answers)]
			if addr == "-" {
				return nil, false
			}
			return []string{addr}, true
		})
		p, guard := NewPoster(PosterConfig{}), NewGuard(prefixes(outside+"/32"))
		guard.resolver = names
		p.transport.DialContext = guard.dial
		for range 10 {
			before := served.Load()
			out := p.Post(t.Context(), callTo("http://rebind.test:"+port+"/"))
			if (out.Verdict == Delivered) != (served.Load() > before) {
				t.Errorf("answers %v: %+v with %d requests at the app", answers, out, served.Load()-before)
			}
		}
		p.Close()
	}
	if served.Load() == 0 {
		t.Error("nothing reached the address that is allowed; the test proves nothing")
	}
	if n := accepted.Load(); n != 0 {
		t.Errorf("%d connections to the address that is refused", n)
	}
}

// proxyChild makes the test binary post to the URL that it holds, through the
// address that it names, and say what came of it.
const proxyChild = "BACKSTOP_TEST_PROXY_CHILD"

// Variables that make other programs use a proxy change nothing. They are read
// once in a process, and hence tried in one of its own.
func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	if os.Getenv(proxyChild) != "" {
		postBesideProxy(t, os.Getenv(proxyChild))
		return
	}
	l, err := net.Listen("tcp", outside+":0")
	if err != nil {
		t.Fatal(err)
	}
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, yes) }))
	app.Listener.Close()
	app.Listener = l
	app.Start()
	defer app.Close()
	proxy, used := inside(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"http", "socks5"} {
		cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestProxyOfTheEnvironmentIsNotUsed$", "-test.count", "1", "-test.timeout", "1m")
		cmd.Env = []string{proxyChild + "=" + app.URL, "NO_PROXY="}
		for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
			cmd.Env = append(cmd.Env, name+"="+scheme+"://127.0.0.1:"+proxy)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("with %s proxies: %v\n%s", scheme, err, out)
		}
	}
	// The child's own control is the proof that the variables are seen.
	if n := used.Load(); n != 2 {
		t.Errorf("the proxy was connected to %d times, want once by the control of each child and never by the poster", n)
	}
}

// postBesideProxy posts to the app by a name that isn't local, which Go would
// use the proxy for, and then does so with Go's own rule as a control.
func postBesideProxy(t *testing.T, app string) {
	t.Helper()
	port := app[strings.LastIndex(app, ":"):]
	p, guard := NewPoster(PosterConfig{}), NewGuard(prefixes(outside+"/32"))
	guard.resolver = nameServer(t, map[string][]string{"app.test": {outside}})
	p.transport.DialContext = guard.dial
	defer p.Close()
	expectVerdict(t, p.Post(t.Context(), callTo("http://app.test"+port)), verdict{Delivered, Success, "", true, 200})
	// TLS with a server that speaks none: it fails at the app, and at no proxy.
	if out := p.Post(t.Context(), callTo("https://app.test"+port)); out.Reason != ReasonConnection {
		t.Errorf("https: %+v", out)
	}
	control := &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "app.test") {
			addr = strings.Replace(addr, "app.test", outside, 1)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	defer control.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://app.test"+port, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := control.RoundTrip(req); err == nil {
		resp.Body.Close()
	}
}
