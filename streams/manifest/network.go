package manifest

import (
	"net/netip"
	"slices"
)

// checkAddr judges an address that stands in a baseUrl. It spares the author
// of a manifest a dead letter; what protects the operator is the same
// judgement at dial time.
func (o Options) checkAddr(addr netip.Addr) string {
	addr = addr.Unmap()
	switch {
	case o.anyAddress:
		return ""
	case slices.ContainsFunc(metadata(), func(p netip.Prefix) bool { return p.Contains(addr) }):
		return addr.String() + " is a cloud's metadata service, which is never called; use the app's public address"
	case o.allows(addr):
		return ""
	}
	what := special(addr)
	if what == "" {
		return ""
	}
	return addr.String() + " is " + what + "; use a public one, or have the operator add its network to BACKSTOP_ALLOWED_NETWORKS"
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

// metadata are the addresses from which a machine in a cloud reads its
// credentials. No list of allowed networks opens them.
func metadata() []netip.Prefix {
	return prefixes("169.254.169.254/32", // AWS, Azure, Google, and most others
		"169.254.170.2/32", "169.254.170.23/32", // AWS tasks and pods
		"168.63.129.16/32",   // Azure's host
		"100.100.100.200/32", // Alibaba
		"192.0.0.192/32",     // Oracle
		"fd00:ec2::/64",      // AWS
		"fd20:ce::254/128")   // Google
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
