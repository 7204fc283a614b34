package admin

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// hosts knows under which names this server is meant to be reached. A page
// elsewhere can make its own name point here (DNS rebinding) and would then be
// of the same origin as we are; but the browser goes on sending that name.
type hosts struct {
	names  map[string]bool // lower case, without port
	public *url.URL        // nil when not set
}

// newHosts returns the hosts: loopback, where we listen, the public URL, and
// what the operator lists.
func newHosts(listening net.Addr, publicURL string, listed []string) (*hosts, error) {
	h := &hosts{names: map[string]bool{"localhost": true}}
	if tcp, ok := listening.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
		h.names[tcp.IP.String()] = true
	}
	if publicURL != "" {
		public, err := url.Parse(publicURL)
		if err != nil {
			return nil, err
		}
		h.public = public
		h.names[strings.ToLower(public.Hostname())] = true
	}
	for _, name := range listed {
		h.names[strings.ToLower(name)] = true
	}
	return h, nil
}

// allowed tells whether a request was meant for us.
func (h *hosts) allowed(r *http.Request) bool {
	name := hostname(r.Host)
	if ip, err := netip.ParseAddr(name); err == nil && ip.Unmap().IsLoopback() {
		return true
	}
	return h.names[name]
}

// secure tells whether the browser speaks TLS, with us or with what stands
// before us under the public URL.
func (h *hosts) secure(r *http.Request) bool {
	return r.TLS != nil || h.public != nil && h.public.Scheme == "https" && strings.EqualFold(hostname(r.Host), h.public.Hostname())
}

// origin is that of the public URL, "" without one.
func (h *hosts) origin() string {
	if h.public == nil {
		return ""
	}
	return h.public.Scheme + "://" + h.public.Host
}

// hostname returns a Host header's name in lower case, without port, brackets
// and the dot at its end.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}
