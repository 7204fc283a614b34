package admin

import (
	"net"
	"sync"
)

// maxConnections is how many clients may be connected at once. One more is
// hung up on at once, which a stranger that collects connections can't turn
// into descriptors that the pipeline would lack.
const maxConnections = 1000

// capped is a listener with a bound on the connections that it has accepted
// and that aren't closed yet.
type capped struct {
	net.Listener
	room chan struct{}
}

func newCapped(l net.Listener, most int) *capped {
	return &capped{l, make(chan struct{}, most)}
}

// Accept returns the next connection that there is room for. Those that there
// is none for are closed, rather than left to wait in the system's queue:
// whoever asks for health should hear at once.
func (l *capped) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.room <- struct{}{}:
			return &cappedConn{Conn: conn, leave: sync.OnceFunc(func() { <-l.room })}, nil
		default:
			_ = conn.Close()
		}
	}
}

type cappedConn struct {
	net.Conn
	leave func()
}

// Close makes room for another connection.
func (c *cappedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
