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
	"sync/atomic"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Server is a running NATS server. Whoever started it calls Shutdown, after
// everything that uses it has stopped.
type Server struct {
	running    atomic.Pointer[launched] // another one after a restart; see tend
	opts       *server.Options          // what the next one is started with
	lock       *dirLock
	dir        string
	token      string
	listens    bool
	tls        bool
	storeMax   int64
	acceptLoss string
	log        *slog.Logger
	probe      sync.Mutex // one write probe at a time
	trouble    atomic.Pointer[error]
	tending    chan struct{} // closed when tend has ended
	untend     context.CancelFunc
	stop       sync.Once
}

// launched is one nats-server, and what it has said.
type launched struct {
	*server.Server
	said *serverLog
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
	s := &Server{opts: opts, lock: lock, dir: dir, token: cfg.Token, listens: !opts.DontListen, tls: cfg.TLS != nil, acceptLoss: cfg.AcceptLoss, log: cfg.Logger, tending: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.start(ctx, cfg.StoreMax); err != nil {
		return nil, errors.Join(err, lock.giveUp())
	}
	tending, untend := context.WithCancel(context.WithoutCancel(ctx))
	s.untend = untend
	go s.tend(tending)
	s.log.Info("the embedded NATS server is ready", "url", s.ClientURL(), "data", dir, "sync_always", opts.SyncAlways, "store_max", s.storeMax)
	return s, nil
}

// start does what needs the directory's lock.
func (s *Server) start(ctx context.Context, storeMax int64) (err error) {
	if err := probeWrite(s.dir); err != nil {
		return err
	}
	if s.listens {
		if err := checkPort(ctx, s.opts.Host, s.opts.Port); err != nil {
			return err
		}
	}
	if s.storeMax, err = storeCap(s.dir, storeMax); err != nil {
		return err
	}
	s.opts.JetStreamMaxStore = s.storeMax
	if err := s.launch(ctx); err != nil {
		return err
	}
	// A restart keeps the port that was found now.
	if addr, ok := s.running.Load().Addr().(*net.TCPAddr); ok && s.listens {
		s.opts.Port = addr.Port
	}
	return nil
}

// launch checks the store and starts a nats-server, which becomes the running one when it is ready.
// It looks at ctx then, and not before: a nats-server that is shut down while
// it recovers its streams leaves goroutines behind that go on writing to the
// store (seen with 2.15.2).
func (s *Server) launch(ctx context.Context) error {
	if err := s.inspect(); err != nil {
		return err
	}
	ns, err := server.NewServer(s.opts.Clone()) // the server writes into its options
	if err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	said := &serverLog{log: s.log}
	ns.SetLoggerV2(said, false, false, false)
	ns.Start()
	err = context.Cause(ctx)
	if reason := said.fatal.Load(); reason != nil {
		err = fmt.Errorf("embedded NATS server: %s", *reason)
	}
	if err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return err
	}
	s.running.Store(&launched{ns, said})
	return nil
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
// for as long as the server runs, also to the next one after a restart (see
// Server.tend); close it before Shutdown.
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
func (s *Server) InProcessConn() (net.Conn, error) { return s.running.Load().InProcessConn() }

// ClientURL returns where clients outside the process connect, as
// "nats://127.0.0.1:4222" ("tls://…" with TLS), without the token. It is empty when the server
// doesn't listen. A server on every interface is named by its loopback address.
func (s *Server) ClientURL() string {
	addr, ok := s.running.Load().Addr().(*net.TCPAddr)
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
