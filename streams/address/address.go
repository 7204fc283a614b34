// Package address knows the network addresses that no webhook may reach,
// whatever an operator allows. Manifests are judged by it when they are
// applied, and connections when they are made, so that both say the same.
package address

import "net/netip"

// Metadata tells whether an address is one where clouds serve metadata, which
// hand out the machine's own credentials. IPv4 in IPv6 has to be unmapped, and
// a zone taken off, before.
func Metadata(addr netip.Addr) bool {
	for _, p := range metadata {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

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

// Embedded returns the IPv4 address that an IPv6 address of a transition
// mechanism stands for: a gateway would send the packets on to it. The address
// has to be without a zone, and isn't a mapped one; see netip.Addr.Unmap.
func Embedded(addr netip.Addr) (netip.Addr, bool) {
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
