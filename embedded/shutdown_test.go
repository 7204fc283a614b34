package embedded

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"
)

func TestShutdownReleasesEverything(t *testing.T) {
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	s := start(t, Config{DataDir: dir, Addr: "127.0.0.1:0"})
	addr := strings.TrimPrefix(s.ClientURL(), "nats://")
	js, _ := makeStream(t, s)
	publish(t, js, "x")
	js.Conn().Close()
	s.Shutdown(t.Context())
	s.Shutdown(t.Context()) // again: nothing happens

	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Errorf("the port: %v", err)
	} else {
		l.Close()
	}
	lock, err := lockDir(dir)
	if err != nil {
		t.Errorf("the directory: %v", err)
	} else if err := lock.release(); err != nil {
		t.Error(err)
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	if err := s.Health(); err == nil {
		t.Error("healthy after shutdown")
	}
}

// connectOutside connects over TCP and returns a channel that closes when the
// server says that it is going.
func connectOutside(t *testing.T, s *Server) <-chan struct{} {
	t.Helper()
	told := make(chan struct{})
	nc, err := nats.Connect(s.ClientURL(), nats.NoReconnect(),
		nats.LameDuckModeHandler(func(*nats.Conn) { close(told) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return told
}

func TestShutdownTellsClientsOutside(t *testing.T) {
	s := start(t, Config{Addr: "127.0.0.1:0"})
	told := connectOutside(t, s)
	begin := time.Now()
	s.Shutdown(t.Context())
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Error("the client was not told")
	}
	if d := time.Since(begin); d < lameDuckGrace || d > 5*lameDuckDuration {
		t.Errorf("shutdown took %v: less than the grace, or far more than the lame duck", d)
	}
}

func TestShutdownDoesNotLingerPastItsContext(t *testing.T) {
	s := start(t, Config{Addr: "127.0.0.1:0"})
	connectOutside(t, s)
	begin := time.Now()
	s.Shutdown(over())
	if d := time.Since(begin); d >= lameDuckGrace {
		t.Errorf("shutdown took %v with a context that was over", d)
	}
}
