// Package natstest gives tests the real broker: an embedded NATS server with
// JetStream in a temporary directory, gone when the test is.
//
//	srv := natstest.Start(t)
//	js := srv.JetStream()
//
// Servers share nothing, so that tests with their own may run in parallel.
package natstest

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded"
)

// startTimeout bounds a start. It takes some 10 ms, and seconds on a machine
// that compiles something else at the same time.
const startTimeout = 30 * time.Second

// Server is an embedded server that belongs to a test.
type Server struct {
	t   testing.TB
	cfg embedded.Config

	mu      sync.Mutex
	current *embedded.Server // nil while stopped
}

// Option changes what Start starts.
type Option func(*embedded.Config)

// SyncAlways makes the server sync each message, as in production. Without it
// nothing is synced while a test runs, which is faster and survives all but a
// power failure.
func SyncAlways() Option {
	return func(c *embedded.Config) { c.Sync = embedded.SyncAlways }
}

// Listen makes the server listen on a free port of loopback, which it keeps
// when restarted; see URL. Without it only this process reaches the server.
func Listen() Option {
	return func(c *embedded.Config) { c.Addr = "127.0.0.1:0" }
}

// Token makes the server ask for a token. Conn presents it.
func Token(token string) Option {
	return func(c *embedded.Config) { c.Token = token }
}

// StoreMax caps all streams together, in bytes, to see what a full store does.
func StoreMax(bytes int64) Option {
	return func(c *embedded.Config) { c.StoreMax = bytes }
}

// Start starts a server and stops it when the test ends. It fails the test if
// it can't. The server's warnings and errors go to the test's log.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := &Server{t: t, cfg: embedded.Config{
		DataDir: t.TempDir(),
		Addr:    embedded.AddrOff,
		Sync:    "1h",
		Logger:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}}
	for _, o := range opts {
		o(&s.cfg)
	}
	// Cleanups run last to first: connections, which are made later, close
	// before the server stops, and that before its directory is removed.
	t.Cleanup(s.Stop)
	s.start()
	return s
}

func (s *Server) start() {
	s.t.Helper()
	// Not t.Context: a server may be started again in a cleanup, when that is over.
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	srv, err := embedded.Start(ctx, s.cfg)
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	if url := srv.ClientURL(); url != "" {
		s.cfg.Addr = url[len("nats://"):] // so that Restart keeps the port
	}
	s.mu.Lock()
	s.current = srv
	s.mu.Unlock()
}

// Stop stops the server, as if it were lost. Connections go on trying to
// reconnect. Stopping a stopped server does nothing.
func (s *Server) Stop() {
	s.mu.Lock()
	srv := s.current
	s.current = nil
	s.mu.Unlock()
	if srv == nil {
		return
	}
	// A context that is over skips the lame duck's wait for outside clients.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	srv.Shutdown(ctx)
}

// Restart stops the server, unless that is done, and starts it again on the
// same data and the same port. Connections made by Conn reconnect by
// themselves, within some 10 ms; they are not remade.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.start()
}

// Embedded returns the running server, which is another one after Restart, and
// nil after Stop.
func (s *Server) Embedded() *embedded.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// DataDir returns the directory that holds the store, to look at what is on
// disk.
func (s *Server) DataDir() string { return s.cfg.DataDir }

// URL returns where clients connect from outside, for a server started with
// Listen. It is the same after Restart.
func (s *Server) URL() string {
	s.t.Helper()
	if s.cfg.Addr == embedded.AddrOff {
		s.t.Fatal("natstest: the server has no URL: start it with natstest.Listen()")
	}
	return "nats://" + s.cfg.Addr
}

// InProcessConn makes Server a nats.InProcessConnProvider that leads to
// whichever server is running, so that connections outlive Restart.
func (s *Server) InProcessConn() (net.Conn, error) {
	if srv := s.Embedded(); srv != nil {
		return srv.InProcessConn()
	}
	return nil, nats.ErrNoServers
}

// Conn opens a connection of its own at each call, within the process, and
// closes it when the test ends. It reconnects for ever, and fast.
func (s *Server) Conn(opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	own := []nats.Option{
		nats.InProcessServer(s),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(5 * time.Millisecond),
		nats.ReconnectJitter(0, 0),
	}
	if s.cfg.Token != "" {
		own = append(own, nats.Token(s.cfg.Token))
	}
	nc, err := nats.Connect("", append(own, opts...)...)
	if err != nil {
		s.t.Fatalf("natstest: connect: %v", err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// JetStream returns a JetStream context on a connection of its own; see Conn.
func (s *Server) JetStream() jetstream.JetStream {
	s.t.Helper()
	js, err := jetstream.New(s.Conn())
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	return js
}
