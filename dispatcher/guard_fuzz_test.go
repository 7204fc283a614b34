package dispatcher

import (
	"net/netip"
	"testing"

	"backstop/streams/address"
	"backstop/streams/manifest"
)

// Every address, with whatever IPv4 is inside it: none that isn't public is
// let through, metadata never, and a manifest says the same as the guard.
func FuzzGuard(f *testing.F) {
	for _, s := range []string{
		"1.1.1.1", "127.0.0.1", "169.254.169.254", "2606:4700::1111", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::1",
		"2001:0:4136:e378:8000:63bf:80ff:fffe", "2606:4700::5efe:a00:1", "fe80::1", "::", "fd00:ec2::254",
	} {
		addr := netip.MustParseAddr(s).As16()
		f.Add(addr[:])
	}
	public, open := NewGuard(nil), NewGuard(prefixes("0.0.0.0/0", "::/0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		plain := addr.Unmap()
		inner := plain
		if v4, ok := address.Embedded(plain); ok {
			inner = v4
		}
		err := public.Check(addr)
		for _, a := range []netip.Addr{plain, inner} {
			if err == nil && (!a.IsGlobalUnicast() || a.IsPrivate()) {
				t.Errorf("%v is let through, and %v is not public", addr, a)
			}
			if address.Metadata(a) && open.Check(addr) == nil {
				t.Errorf("%v is let through, and %v serves metadata", addr, a)
			}
		}
		if addr.Is6() && (public.Check(addr.WithZone("eth0")) == nil) != (err == nil) {
			t.Errorf("%v: a zone makes a difference", addr)
		}
		host := addr.String()
		if addr.Is6() {
			host = "[" + host + "]"
		}
		_, said := manifest.Parse([]byte(`{"appId":"quiz","baseUrl":"http://`+host+`","webhooks":{"quizAnswer":{"path":"/answer"}}}`), manifest.Options{})
		if (said == nil) != (err == nil) {
			t.Errorf("%v: the guard says %v, the manifest %v", addr, err, said)
		}
	})
}
