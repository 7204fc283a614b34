package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// Guard keeps webhooks away from addresses that are not on the public
// internet: an app's URL is a third party's, and so is its DNS. It looks at
// the address that is really dialled, after every name has been resolved,
// because what was looked up earlier may have changed since.
type Guard struct {
	allowed  []netip.Prefix
	public   *ssrf.Guardian
	resolver *net.Resolver // nil for the system's
}

// NewGuard returns a Guard that lets the public internet through, and the
// allowed networks. Addresses of cloud metadata services stay refused whatever
// is allowed: they hand out the machine's own credentials.
func NewGuard(allowed []netip.Prefix) *Guard {
	g := &Guard{public: ssrf.New(ssrf.WithAnyPort())}
	for _, p := range allowed {
		// 127.0.0.0/8 may also be written as ::ffff:127.0.0.0/104.
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		g.allowed = append(g.allowed, p.Masked())
	}
	return g
}

// BlockedError says that the guard refused an address.
type BlockedError struct {
	Addr netip.Addr
	Why  string
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("the guard refused %v: %s", e.Addr, e.Why)
}

// Check tells whether an address may be dialled; if not, the error is a
// *BlockedError.
func (g *Guard) Check(addr netip.Addr) error {
	// The zone names an interface, and two ways to write an IPv4 address are one.
	plain := addr.WithZone("").Unmap()
	if err := g.check(plain); err != nil {
		return &BlockedError{addr, err.Error()}
	}
	// A gateway would send these on to the IPv4 address inside.
	if inner, ok := embedded(plain); ok {
		if err := g.check(inner); err != nil {
			return &BlockedError{addr, fmt.Sprintf("it holds %v: %v", inner, err)}
		}
	}
	return nil
}

func (g *Guard) check(addr netip.Addr) error {
	for _, p := range metadata {
		if p.Contains(addr) {
			return errMetadata
		}
	}
	for _, p := range g.allowed {
		if p.Contains(addr) {
			return nil
		}
	}
	if err := g.public.SafeAddr(addr); err != nil {
		return errNotPublic
	}
	return nil
}

var (
	errMetadata  = errors.New("cloud metadata services are never called")
	errNotPublic = errors.New("not on the public internet; an operator can allow its network with BACKSTOP_ALLOWED_NETWORKS")
)

// metadata are the addresses of cloud metadata services.
var metadata = [...]netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),         // link-local: every cloud's 169.254.169.254, AWS's credentials at .170.2 and .170.23, Tencent's .0.23
	netip.MustParsePrefix("168.63.129.16/32"),       // Azure's wire server, on a public address
	netip.MustParsePrefix("100.100.100.200/32"),     // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),         // Oracle
	netip.MustParsePrefix("fd00:ec2::/32"),          // AWS: ::254, ::23, and the other services beside them
	netip.MustParsePrefix("fd20:ce::254/128"),       // Google
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), // Oracle
	netip.MustParsePrefix("fd00:42::42/128"),        // Scaleway
	netip.MustParsePrefix("fe80::a9fe:a9fe/128"),    // OpenStack
}

// embedded returns the IPv4 address that an IPv6 address of a transition
// mechanism stands for.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() || addr.IsLoopback() || addr.IsUnspecified() {
		return netip.Addr{}, false // ::1 is not 0.0.0.1
	}
	b := addr.As16()
	last := [4]byte(b[12:])
	switch {
	case nat64.Contains(addr), localNAT64.Contains(addr), translated.Contains(addr), compatible.Contains(addr):
		return netip.AddrFrom4(last), true
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case teredo.Contains(addr): // the client's, inverted
		return netip.AddrFrom4([4]byte{^last[0], ^last[1], ^last[2], ^last[3]}), true
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP
		return netip.AddrFrom4(last), true
	default:
		return netip.Addr{}, false
	}
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215; read as a /96, which is how it is used
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291, given up
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// dialTimeout bounds a dial whose request has found another connection
// meanwhile and no longer bounds it: net/http lets it go on.
const dialTimeout = 30 * time.Second

// dial connects as net.Dialer does, trying each of a host's addresses that
// Check lets through. If there was none, the error is a *BlockedError; if one
// was tried, it is that one's, since the next time it may work.
func (g *Guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var (
		mu      sync.Mutex // addresses are tried side by side
		blocked *BlockedError
		tried   bool
	)
	d := net.Dialer{Timeout: dialTimeout, Resolver: g.resolver, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("the guard can't read the address %q: %w", address, err)
		}
		err = g.Check(ap.Addr())
		mu.Lock()
		defer mu.Unlock()
		if !errors.As(err, &blocked) {
			tried = true
		}
		return err
	}}
	conn, err := d.DialContext(ctx, network, address)
	mu.Lock()
	defer mu.Unlock()
	switch {
	case err == nil:
		return conn, nil
	case blocked != nil && !tried:
		return nil, blocked
	case errors.As(err, new(*BlockedError)):
		return nil, fmt.Errorf("the guard refused some addresses of %s, and the others could not be reached", address)
	default:
		return nil, err
	}
}
