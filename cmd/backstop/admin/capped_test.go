package admin

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// Connections beyond the bound are hung up on, and there is room again when one ends.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newCapped(inner, 2)
	defer l.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	dial()
	dial()
	first := <-accepted
	defer (<-accepted).Close()
	refused := dial()
	_ = refused.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := refused.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one too many: %v, want to be hung up on", err)
	}
	first.Close()
	first.Close() // which makes room once
	dial()
	third := <-accepted
	defer third.Close()
	if n := len(l.room); n != 2 {
		t.Errorf("%d count as connected, want 2", n)
	}
}
