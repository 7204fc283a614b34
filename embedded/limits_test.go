package embedded

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// A stranger who connects and says nothing, or the wrong thing, is cut off.
func TestStrangersAreCutOff(t *testing.T) {
	s, err := Start(t.Context(), Config{DataDir: t.TempDir(), Addr: "127.0.0.1:0", Token: "s3cret", Sync: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(t.Context()) }) // after the parallel ones
	addr := strings.TrimPrefix(s.ClientURL(), "nats://")
	tests := []struct{ reason, says string }{
		{"says nothing", ""},
		{"has no token", "CONNECT {}\r\n"},
		{"has a wrong token", "CONNECT {\"auth_token\":\"s3cre\"}\r\n"},
		{"publishes before it logs in", "PUB events.analytics.quiz 2\r\n{}\r\n"},
		{"a line without an end", "PUB " + strings.Repeat("a", 8192)},
		{"is no client of NATS", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
	}
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, test.says)
			_ = conn.SetReadDeadline(time.Now().Add(authTimeout + 25*time.Second))
			heard, err := io.ReadAll(conn) // until the server hangs up
			if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("it is still connected, and heard %q", heard)
			}
			if strings.Contains(string(heard), "s3cret") {
				t.Errorf("it heard %q", heard)
			}
		})
	}
}

// What the limits are, by the server's own account, and that the largest
// message and the first above it are told apart.
func TestLimitsOfClients(t *testing.T) {
	o, err := Config{DataDir: t.TempDir()}.options(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o.MaxConn != maxConnections || o.MaxSubs != maxSubscriptions || o.AuthTimeout != authTimeout.Seconds() {
		t.Errorf("connections %d, subscriptions %d, login %v s", o.MaxConn, o.MaxSubs, o.AuthTimeout)
	}
	s, err := Start(t.Context(), Config{DataDir: t.TempDir(), Addr: AddrOff, Sync: "1h"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown(t.Context())
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.Publish("x", make([]byte, MaxPayload)); err != nil {
		t.Errorf("the largest message: %v", err)
	}
	if err := nc.Publish("x", make([]byte, MaxPayload+1)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("one byte more: %v", err)
	}
}
