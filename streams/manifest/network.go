package manifest

import (
	"net/netip"
	"slices"

	"backstop/streams/address"
)

// checkAddr judges an address that stands in a baseUrl. It spares the author
// of a manifest a dead letter; what protects the operator is the same
// judgement at dial time.
func (o Options) checkAddr(addr netip.Addr) string {
	if o.anyAddress {
		return ""
	}
	addr = addr.Unmap()
	if wrong := o.judge(addr); wrong != "" {
		return addr.String() + " is " + wrong
	}
	if inner, ok := address.Embedded(addr); ok {
		if wrong := o.judge(inner); wrong != "" {
			return addr.String() + " leads to " + inner.String() + ", which is " + wrong
		}
	}
	return ""
}

// judge says what is wrong with an address, after "is", and what to do; "" for
// one that may be called.
func (o Options) judge(addr netip.Addr) string {
	switch what := special(addr); {
	case address.Metadata(addr) && addr.IsLinkLocalUnicast():
		return "a link-local address, where clouds have their metadata services, and never called; use the app's public address"
	case address.Metadata(addr):
		return "a cloud's metadata service, which is never called; use the app's public address"
	case what != "" && !o.allows(addr):
		return what + "; use a public one, or have the operator add its network to BACKSTOP_ALLOWED_NETWORKS"
	default:
		return ""
	}
}

func (o Options) checkLocalhost(name string) string {
	if o.anyAddress || o.allows(netip.AddrFrom4([4]byte{127, 0, 0, 1})) || o.allows(netip.IPv6Loopback()) {
		return ""
	}
	return quote(name) + " is the machine that Backstop runs on; use a public name, or have the operator add 127.0.0.0/8 to BACKSTOP_ALLOWED_NETWORKS"
}

func (o Options) allows(addr netip.Addr) bool {
	return slices.ContainsFunc(o.AllowedNetworks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// special names the range of an address that isn't on the public internet, ""
// for a public one. The ranges are IANA's special-purpose registries; IPv6 is
// public in 2000::/3 only.
func special(addr netip.Addr) string {
	in := func(list ...string) bool {
		return slices.ContainsFunc(prefixes(list...), func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	switch {
	case addr.IsLoopback():
		return "a loopback address"
	case addr.IsPrivate() || in("100.64.0.0/10"):
		return "a private address"
	case addr.IsLinkLocalUnicast():
		return "a link-local address"
	case addr.IsMulticast() || addr.IsUnspecified(),
		in("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
			"192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
			"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
		addr.Is6() && !in("2000::/3"):
		return "not an address on the public internet"
	default:
		return ""
	}
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}
