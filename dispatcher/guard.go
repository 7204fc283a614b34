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

	"backstop/streams/address"
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
	if inner, ok := address.Embedded(plain); ok {
		if err := g.check(inner); err != nil {
			return &BlockedError{addr, fmt.Sprintf("it holds %v: %v", inner, err)}
		}
	}
	return nil
}

func (g *Guard) check(addr netip.Addr) error {
	if address.Metadata(addr) {
		return errMetadata
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

// dialTimeout bounds a dial whose request has found another connection
// meanwhile and no longer bounds it: net/http lets it go on.
const dialTimeout = 30 * time.Second

// dial connects as net.Dialer does, trying each of a host's addresses that
// Check lets through. If there was none, the error is a *BlockedError; if one
// was tried, it is that one's, since the next time it may work.
func (g *Guard) dial(ctx context.Context, network, target string) (net.Conn, error) {
	var (
		mu      sync.Mutex // addresses are tried side by side
		blocked *BlockedError
		tried   bool
	)
	d := net.Dialer{Timeout: dialTimeout, Resolver: g.resolver, ControlContext: func(_ context.Context, _, dialled string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(dialled)
		if err != nil {
			return fmt.Errorf("the guard can't read the address %q: %w", dialled, err)
		}
		err = g.Check(ap.Addr())
		mu.Lock()
		defer mu.Unlock()
		if !errors.As(err, &blocked) {
			tried = true
		}
		return err
	}}
	conn, err := d.DialContext(ctx, network, target)
	mu.Lock()
	defer mu.Unlock()
	switch {
	case err == nil:
		return conn, nil
	case blocked != nil && !tried:
		return nil, blocked
	case errors.As(err, new(*BlockedError)):
		return nil, fmt.Errorf("the guard refused some addresses of %s, and the others could not be reached", target)
	default:
		return nil, err
	}
}
