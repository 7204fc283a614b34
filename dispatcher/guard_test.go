package dispatcher

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func prefixes(list ...string) (all []netip.Prefix) {
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestGuardCorpus(t *testing.T) {
	const ok, refused = true, false
	tests := []struct {
		addr   string
		want   bool
		reason string
	}{
		{"8.8.8.8", ok, "public"},
		{"1.1.1.1", ok, "public"},
		{"93.184.215.14", ok, "public"},
		{"9.255.255.255", ok, "just below 10/8"},
		{"11.0.0.0", ok, "just above 10/8"},
		{"100.63.255.255", ok, "just below the shared space"},
		{"100.128.0.0", ok, "just above the shared space"},
		{"126.255.255.255", ok, "just below loopback"},
		{"128.0.0.1", ok, "just above loopback"},
		{"169.253.255.255", ok, "just below link-local"},
		{"169.255.0.0", ok, "just above link-local"},
		{"172.15.255.255", ok, "just below 172.16/12"},
		{"172.32.0.0", ok, "just above 172.16/12"},
		{"192.167.255.255", ok, "just below 192.168/16"},
		{"192.169.0.0", ok, "just above 192.168/16"},
		{"168.63.129.15", ok, "beside Azure's wire server"},
		{"223.255.255.255", ok, "just below multicast"},
		{"2606:4700:4700::1111", ok, "public"},
		{"2a00:1450:4001:81b::200e", ok, "public"},
		{"::ffff:8.8.8.8", ok, "public, mapped"},

		{"0.0.0.0", refused, "this host, on Linux"},
		{"0.1.2.3", refused, "this network"},
		{"10.0.0.1", refused, "private"},
		{"10.255.255.255", refused, "private"},
		{"100.64.0.1", refused, "shared, carrier NAT"},
		{"100.127.255.255", refused, "shared, carrier NAT"},
		{"127.0.0.1", refused, "loopback"},
		{"127.1.2.3", refused, "all of 127/8 is loopback"},
		{"169.254.1.1", refused, "link-local"},
		{"172.16.0.1", refused, "private"},
		{"172.31.255.255", refused, "private"},
		{"192.0.0.1", refused, "IETF protocols"},
		{"192.0.2.1", refused, "documentation"},
		{"192.88.99.1", refused, "6to4 relay"},
		{"192.168.0.1", refused, "private"},
		{"192.168.255.255", refused, "private"},
		{"198.18.0.1", refused, "benchmarks"},
		{"198.19.255.255", refused, "benchmarks"},
		{"198.51.100.1", refused, "documentation"},
		{"203.0.113.1", refused, "documentation"},
		{"224.0.0.1", refused, "multicast"},
		{"239.255.255.250", refused, "multicast"},
		{"240.0.0.1", refused, "reserved"},
		{"255.255.255.255", refused, "broadcast"},

		{"169.254.169.254", refused, "metadata, nearly everywhere"},
		{"169.254.170.2", refused, "AWS container credentials"},
		{"169.254.170.23", refused, "AWS pod credentials"},
		{"169.254.0.23", refused, "Tencent metadata"},
		{"168.63.129.16", refused, "Azure's wire server, a public address"},
		{"100.100.100.200", refused, "Alibaba metadata"},
		{"192.0.0.192", refused, "Oracle metadata"},
		{"fd00:ec2::254", refused, "AWS metadata"},
		{"fd00:ec2::23", refused, "AWS pod credentials"},
		{"fd20:ce::254", refused, "Google metadata"},
		{"fe80::a9fe:a9fe%eth0", refused, "OpenStack metadata"},

		{"::", refused, "unspecified"},
		{"::1", refused, "loopback"},
		{"::1%lo", refused, "loopback with a zone"},
		{"fe80::1", refused, "link-local"},
		{"fe80::1%eth0", refused, "link-local with a zone"},
		{"fec0::1", refused, "site-local, given up"},
		{"fc00::1", refused, "unique local"},
		{"fdff:ffff::1", refused, "unique local"},
		{"ff02::1", refused, "multicast"},
		{"100::1", refused, "discard"},
		{"2001:db8::1", refused, "documentation"},
		{"3fff::1", refused, "documentation"},
		{"2001:10::1", refused, "ORCHID"},
		{"5f00::1", refused, "segment routing"},
		{"4000::1", refused, "not assigned"},

		{"::ffff:127.0.0.1", refused, "loopback, mapped"},
		{"::ffff:10.0.0.1", refused, "private, mapped"},
		{"::ffff:169.254.169.254", refused, "metadata, mapped"},
		{"::ffff:168.63.129.16", refused, "Azure, mapped"},
		{"::127.0.0.1", refused, "loopback, compatible"},
		{"::ffff:0:127.0.0.1", refused, "loopback, translated"},
		{"64:ff9b::7f00:1", refused, "loopback by NAT64"},
		{"64:ff9b::a9fe:a9fe", refused, "metadata by NAT64"},
		{"64:ff9b:1::a00:1", refused, "private by local NAT64"},
		{"2002:7f00:1::1", refused, "loopback by 6to4"},
		{"2002:a9fe:a9fe::1", refused, "metadata by 6to4"},
		{"2001:0:4136:e378:8000:63bf:3fff:fdd2", refused, "Teredo"},
		{"2606:4700::5efe:a00:1", refused, "private by ISATAP"},
		{"2606:4700::200:5efe:a9fe:a9fe", refused, "metadata by ISATAP"},
		{"2606:4700::5efe:808:808", ok, "public by ISATAP"},
	}
	if len(tests) < 60 {
		t.Errorf("only %d addresses", len(tests))
	}
	g := NewGuard(nil)
	for _, test := range tests {
		addr := netip.MustParseAddr(test.addr)
		err := g.Check(addr)
		if (err == nil) != test.want {
			t.Errorf("%s: %v, want allowed %v: %s", test.addr, err, test.want, test.reason)
		}
		if blocked := new(BlockedError); err != nil && (!errors.As(err, &blocked) || blocked.Addr != addr) {
			t.Errorf("%s: %#v doesn't name it", test.addr, err)
		}
	}
}

func TestGuardAllowed(t *testing.T) {
	everything := prefixes("0.0.0.0/0", "::/0")
	tests := []struct {
		allowed []netip.Prefix
		addr    string
		want    bool
		reason  string
	}{
		{prefixes("127.0.0.0/8"), "127.0.0.1", true, "allowed"},
		{prefixes("127.0.0.0/8"), "::ffff:127.0.0.1", true, "the same address"},
		{prefixes("127.0.0.0/8"), "0.0.0.0", false, "another, though Linux would connect to loopback"},
		{prefixes("127.0.0.0/8"), "::1", false, "another"},
		{prefixes("127.0.0.0/8"), "10.0.0.1", false, "another network"},
		{prefixes("127.0.0.0/8"), "8.8.8.8", true, "the public internet stays"},
		{prefixes("127.0.0.1/8"), "127.9.9.9", true, "a prefix with bits behind its length"},
		{prefixes("::ffff:127.0.0.0/104"), "127.0.0.1", true, "a mapped prefix"},
		{prefixes("::1/128"), "::1", true, "allowed"},
		{prefixes("::1/128"), "::1%lo", true, "a zone is no other address"},
		{prefixes("10.1.0.0/16"), "10.1.2.3", true, "allowed"},
		{prefixes("10.1.0.0/16"), "10.2.2.3", false, "beside it"},
		{prefixes("fd00::/8"), "fd12::1", true, "allowed"},
		{prefixes("64:ff9b::/96"), "64:ff9b::808:808", true, "a public address by an allowed NAT64"},
		{prefixes("64:ff9b::/96"), "64:ff9b::a00:1", false, "a private address by an allowed NAT64"},
		{prefixes("64:ff9b::/96", "10.0.0.0/8"), "64:ff9b::a00:1", true, "both are allowed"},
		{everything, "10.0.0.1", true, "all is allowed"},
		{everything, "::", true, "all is allowed"},
		{everything, "169.254.169.254", false, "but metadata"},
		{everything, "169.254.170.2", false, "but metadata"},
		{everything, "168.63.129.16", false, "but metadata"},
		{everything, "100.100.100.200", false, "but metadata"},
		{everything, "fd00:ec2::254", false, "but metadata"},
		{everything, "::ffff:169.254.169.254", false, "but metadata, mapped"},
		{everything, "64:ff9b::a9fe:a9fe", false, "but metadata by NAT64"},
		{everything, "2002:a9fe:a9fe::1", false, "but metadata by 6to4"},
		{everything, "2001:0:4136:e378:8000:63bf:5601:5601", false, "but metadata by Teredo"},
		{everything, "::169.254.169.254", false, "but metadata, compatible"},
		{everything, "::ffff:0:169.254.169.254", false, "but metadata, translated"},
		{everything, "64:ff9b:1::a9fe:a9fe", false, "but metadata by local NAT64"},
		{everything, "fe80::5efe:a9fe:a9fe%eth0", false, "but metadata by ISATAP"},
	}
	for _, test := range tests {
		err := NewGuard(test.allowed).Check(netip.MustParseAddr(test.addr))
		if (err == nil) != test.want {
			t.Errorf("%s with %v: %v, want allowed %v: %s", test.addr, test.allowed, err, test.want, test.reason)
		}
	}
}

func TestGuardRefusesBeforeConnecting(t *testing.T) {
	var connections atomic.Int64
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())

	p := NewPoster(PosterConfig{})
	defer p.Close()
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "127.1", "2130706433", "0x7f.1"} {
		out := p.Post(t.Context(), callTo("http://"+host+":"+port+"/hook"))
		if out.Reason == ReasonConnection && strings.Contains(out.Err.Error(), "no such host") {
			continue // not every form of number is an address to Go
		}
		expectVerdict(t, out, verdict{Rejected, NotCounted, ReasonBlockedAddress, false, 0})
		if !strings.Contains(out.Err.Error(), "BACKSTOP_ALLOWED_NETWORKS") {
			t.Errorf("%s: %v doesn't say what to do", host, out.Err)
		}
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("%d connections were made all the same", n)
	}
}

// What a name stands for is decided when it is dialled, address by address.
func TestGuardWithNames(t *testing.T) {
	const allowed, refusedAddr = "127.0.0.2", "127.0.0.1"
	l, err := net.Listen("tcp", allowed+":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(yes)) }))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	_, open, _ := net.SplitHostPort(l.Addr().String())
	closed := closedPort(t)

	asking := func(names *net.Resolver) *Poster {
		p, guard := newPoster(t, PosterConfig{}), NewGuard(prefixes(allowed+"/32"))
		guard.resolver = names
		p.transport.DialContext = guard.dial
		return p
	}
	p := asking(nameServer(t, map[string][]string{
		"good.test": {allowed}, "private.test": {"10.0.0.1", refusedAddr}, "metadata.test": {"169.254.169.254"},
		"mixed.test": {refusedAddr, allowed}, "mixed2.test": {allowed, refusedAddr}, "silent.test": nil,
	}))
	delivered := verdict{Delivered, Success, "", true, 200}
	refused := verdict{Rejected, NotCounted, ReasonBlockedAddress, false, 0}
	failed := verdict{Retry, Failure, ReasonConnection, true, 0}
	tests := []struct {
		host, port string
		want       verdict
		reason     string
	}{
		{"good.test", open, delivered, "an allowed address"},
		{"private.test", open, refused, "none of its addresses is allowed"},
		{"metadata.test", open, refused, "metadata under another name"},
		{"mixed.test", open, delivered, "the allowed one of two is taken"},
		{"mixed2.test", open, delivered, "in any order"},
		{"mixed.test", closed, failed, "an allowed address that can't be reached may be reached later"},
		{"mixed2.test", closed, failed, "in any order"},
		{"unknown.test", open, failed, "no such host"},
		{"silent.test", open, verdict{Retry, Failure, ReasonTimeout, true, 0}, "a name server that hangs"},
	}
	for _, test := range tests {
		t.Run(test.host+" "+test.reason, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			expectVerdict(t, p.Post(ctx, callTo("http://"+test.host+":"+test.port)), test.want)
		})
	}

	// Nobody there to ask: our fault, and not the app's.
	gone := "127.0.0.1:" + closedPort(t)
	p = asking(&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", gone)
	}})
	expectVerdict(t, p.Post(t.Context(), callTo("http://good.test:"+closed)), verdict{Retry, NotCounted, ReasonLocal, false, 0})
}

// closedPort returns a port of 127.0.0.1 where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
