package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// checkServers checks NATS_URL: one address or several, separated by commas.
// Its value isn't repeated in an error, as it may hold a password.
func checkServers(servers string) error {
	if servers == "" {
		return nil
	}
	for server := range strings.SplitSeq(servers, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		u, err := url.Parse(server)
		if err != nil || !validHost(u) {
			return errors.New("NATS_URL is not an address of NATS: use for example nats://127.0.0.1:4222, or several separated by commas")
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return fmt.Errorf("NATS_URL: scheme %q is none that NATS speaks: use nats, tls, ws or wss", u.Scheme)
		}
	}
	return nil
}

// validHost tells whether a URL has a host, and a port that there is if any.
// url.Parse takes ":::" for a host, and any number for a port.
func validHost(u *url.URL) bool {
	host := u.Hostname()
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	if strings.Contains(host, ":") {
		_, err := netip.ParseAddr(host)
		return err == nil && strings.HasPrefix(u.Host, "[")
	}
	return host != ""
}

// checkExposure refuses to listen beyond this machine without a token. An
// embedded server that isn't started can't be exposed.
func (c *Config) checkExposure() error {
	if c.AdminToken == "" && !loopback(string(c.HTTPAddr)) {
		return settingError("BACKSTOP_HTTP_ADDR", string(c.HTTPAddr),
			errors.New("can be reached from other machines: set BACKSTOP_ADMIN_TOKEN, or listen on 127.0.0.1"))
	}
	if c.NATSURL == "" && c.EmbeddedToken == "" && c.EmbeddedAddr != natsAddrOff && !loopback(string(c.EmbeddedAddr)) {
		return settingError("BACKSTOP_NATS_ADDR", string(c.EmbeddedAddr),
			errors.New("can be reached from other machines: set BACKSTOP_NATS_TOKEN, or listen on 127.0.0.1"))
	}
	return nil
}

// loopback tells whether only this machine reaches an address that checkAddr
// accepts. A name other than localhost could come to mean anything.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// PublicBase returns the base of callback URLs, without a slash at its end:
// BACKSTOP_PUBLIC_URL, or else the address where HTTP is really served, which
// port 0 leaves open until then. An address that stands for every interface
// becomes the host's name.
func (c *Config) PublicBase(served net.Addr) string {
	if c.PublicURL != "" {
		return string(c.PublicURL)
	}
	scheme := "http://"
	if c.HTTPCert != "" {
		scheme = "https://"
	}
	host, port, err := net.SplitHostPort(served.String())
	if err != nil {
		return scheme + served.String()
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return scheme + net.JoinHostPort(host, port)
}
