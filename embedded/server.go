package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Server is a running NATS server. Whoever started it calls Shutdown, after
// everything that uses it has stopped.
type Server struct {
	ns       *server.Server
	lock     *dirLock
	dir      string
	token    string
	listens  bool
	tls      bool
	storeMax int64
	log      *slog.Logger
	probe    sync.Mutex // one write probe at a time
	stop     sync.Once
}

// Start runs a server and returns when it accepts clients, with every stream
// recovered. An error about a setting is one line that names it and says what
// to do; nothing is left running then. When ctx ends before the server is
// ready, Start returns its error, though not before the streams are recovered;
// afterwards ctx has no effect.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	opts, err := cfg.options(ctx)
	if err != nil {
		return nil, err
	}
	if err := makeDir(cfg.DataDir); err != nil {
		return nil, err
	}
	// The path goes into messages, where "./backstop-data" would not say which.
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envDataDir, err)
	}
	opts.StoreDir = dir
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock, dir: dir, token: cfg.Token, listens: !opts.DontListen, tls: cfg.TLS != nil, log: cfg.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.start(ctx, opts, cfg.StoreMax); err != nil {
		return nil, errors.Join(err, lock.release())
	}
	s.log.Info("the embedded NATS server is ready", "url", s.ClientURL(), "data", dir, "sync_always", opts.SyncAlways, "store_max", s.storeMax)
	return s, nil
}

// start does what needs the directory's lock.
func (s *Server) start(ctx context.Context, opts *server.Options, storeMax int64) (err error) {
	if err := probeWrite(s.dir); err != nil {
		return err
	}
	if s.listens {
		if err := checkPort(ctx, opts.Host, opts.Port); err != nil {
			return err
		}
	}
	if s.storeMax, err = storeCap(s.dir, storeMax); err != nil {
		return err
	}
	opts.JetStreamMaxStore = s.storeMax
	if s.ns, err = server.NewServer(opts); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	return s.run(ctx)
}

// run starts the server proper. It looks at ctx when that is done, and not
// before: a nats-server that is shut down while it recovers its streams leaves
// goroutines behind that go on writing to the store (seen with 2.15.2).
func (s *Server) run(ctx context.Context) error {
	log := &serverLog{log: s.log}
	s.ns.SetLoggerV2(log, false, false, false)
	s.ns.Start()
	err := context.Cause(ctx)
	if reason := log.fatal.Load(); reason != nil {
		err = fmt.Errorf("embedded NATS server: %s", *reason)
	}
	if err != nil {
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
	}
	return err
}

// checkPort takes the port and gives it back. nats-server opens it only after
// it has recovered its streams, which is late to hear that it is taken.
func checkPort(ctx context.Context, host string, port int) error {
	addr := net.JoinHostPort(host, strconv.Itoa(max(port, 0)))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err == nil {
		return l.Close()
	}
	var reason syscall.Errno
	if !errors.As(err, &reason) {
		return fmt.Errorf("%s: %w", envAddr, err)
	}
	return fmt.Errorf("%s: can't listen on %s: %w: %s", envAddr, addr, reason, insteadOf(reason))
}

// insteadOf says what to do about an address that can't be listened on.
func insteadOf(reason syscall.Errno) string {
	switch {
	case errors.Is(reason, syscall.EADDRINUSE):
		return "stop the program that has it, choose another port, or set it to " + AddrOff
	case errors.Is(reason, syscall.EACCES):
		return "choose a port from 1024"
	default:
		return "choose an address of this machine"
	}
}

// Connect opens a connection within the process, past the network, whether or
// not the server listens. It presents the token if there is one. It reconnects
// for as long as the server runs; close it before Shutdown.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	own := []nats.Option{nats.InProcessServer(s), nats.MaxReconnects(-1)}
	if s.token != "" {
		own = append(own, nats.Token(s.token))
	}
	return nats.Connect("", append(own, opts...)...)
}

// InProcessConn returns one end of a pipe to the server. It makes Server fit for
// nats.InProcessServer, where Connect is not enough, as when a connection has to
// follow from one server to its successor.
func (s *Server) InProcessConn() (net.Conn, error) { return s.ns.InProcessConn() }

// ClientURL returns where clients outside the process connect, as
// "nats://127.0.0.1:4222" ("tls://…" with TLS), without the token. It is empty when the server
// doesn't listen. A server on every interface is named by its loopback address.
func (s *Server) ClientURL() string {
	addr, ok := s.ns.Addr().(*net.TCPAddr)
	if !s.listens || !ok {
		return ""
	}
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "nats://"
	if s.tls {
		scheme = "tls://"
	}
	return scheme + net.JoinHostPort(host, strconv.Itoa(addr.Port))
}

// StoreMax returns the most bytes that all streams together may take, for
// whoever decides the limits of each. It is settled at the start.
func (s *Server) StoreMax() int64 { return s.storeMax }
