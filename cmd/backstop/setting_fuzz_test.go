package main

import (
	"strings"
	"testing"
)

// A setting of any text is refused, or printed so that it can be set again.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{
		"", "0", "-1", "2000", "1e3", "99999999999999999999", "10GiB", "1.5MB", "NaNGiB", "InfKiB", "127.0.0.1:8080", ":0", "off", "[::1]:1", "always", "1s", "1h1ns",
		"https://backstop.example.com/", "http://user@host", "127.0.0.0/8, ::1/128", "10.0.0.1/8", "debug", "json",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var (
			wait  milliseconds
			n     count
			size  byteSize
			nets  networks
			level logLevel
		)
		for what, setting := range map[string]interface {
			Decode(string) error
			String() string
		}{"milliseconds": &wait, "count": &n, "size": &size, "networks": &nets, "level": &level} {
			if setting.Decode(s) != nil || s == "" {
				continue
			}
			if first := setting.String(); setting.Decode(first) != nil || setting.String() != first {
				t.Errorf("%s: %q became %q, which can't be set", what, s, first)
			}
		}
		for _, setting := range []interface{ Decode(string) error }{new(httpAddr), new(natsAddr), new(syncMode), new(baseURL), new(logFormat)} {
			_ = setting.Decode(s)
		}
		if wait < 0 || n < 0 || size < 0 {
			t.Errorf("%q is negative: %v %v %v", s, wait, n, size)
		}
	})
}

// An address of NATS with a password in it is shown without, in whatever way
// it is written and wrong.
func FuzzRedact(f *testing.F) {
	for _, server := range []string{"nats://ann:%s@127.0.0.1:4222", "ann:%s@127.0.0.1", "%s@host", "tls://%s@n1,nats://n2", "nats://a@b:%s@host", "nats://:%s@", "wss://ann:%s@[::1", "nats://ann:%s@host:port", " nats://ann:%s@host"} {
		f.Add(server)
	}
	const password = "pa55w0rd"
	f.Fuzz(func(t *testing.T, server string) {
		before, after, found := strings.Cut(server, "%s")
		// It is a password where an @ follows it, before the list or the host ends.
		if !found || strings.Contains(server, password) || strings.ContainsAny(before, "/?#,") && !strings.HasSuffix(before[:max(strings.LastIndexByte(before, '/')+1, 0)], "://") {
			return
		}
		if at := strings.IndexAny(after, "@,/?#"); at < 0 || after[at] != '@' {
			return
		}
		written := before + password + after
		if shown := redact(written); strings.Contains(shown, password) {
			t.Errorf("%q is shown as %q", written, shown)
		}
		if err := checkServers(written); err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("%q: %v", written, err)
		}
	})
}
