// Package admin is Backstop's HTTP side: the API for operators, the callbacks of
// apps, and health, readiness and metrics for machines.
//
// A route of the API is one line in routes.go and one handler in the file of
// its resource. What all of them have in common happens before a handler is
// called: who asks (auth.go), from where (guard.go, hosts.go), whether method
// and query are right (routes.go). A handler returns an error, which problem.go
// makes the answer of.
package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"backstop/cmd/backstop/ops"
	"backstop/consumers"
	"backstop/streams/manifest"
)

// Config says what the server tells of, and to whom. Addr, Metrics, Healthy,
// Ready and Log are required.
type Config struct {
	// Addr is "host:port".
	Addr string
	// TLS is served under, if it isn't nil.
	TLS *tls.Config
	// Token is the bearer token of somebody who may do everything. Together
	// with Tokens it guards the API and /metrics; without any of them both are
	// open to this machine alone. Health and readiness ask for none: probes
	// have none, and learn nothing that matters.
	Token string
	// Tokens are further ones, each with a name and a role.
	Tokens []Token
	// PublicURL is where browsers reach the server when that isn't its address.
	PublicURL string
	// Hosts are further names by which they do.
	Hosts []string
	// Metrics are served at /metrics.
	Metrics prometheus.Gatherer
	// Healthy is asked by /healthz: an error means that a restart may help,
	// unless it is a MendingError.
	Healthy func() error
	// Ready is asked by /readyz: an error means that events aren't consumed (yet).
	Ready func() error
	// Callbacks is asked at each callback for what takes it; nil means that
	// there is nothing yet, and the app is told to come again. They need no
	// token but the one in their URL.
	Callbacks func() *Callbacks
	// CountCallbacks wraps the handler of callbacks to count what it answers.
	// Nil counts nothing.
	CountCallbacks func(http.Handler) http.Handler
	// Backend is asked at each request to the API for what it works on; nil
	// means that there is nothing yet, and the client is told to come again.
	Backend func() *Backend
	// Log gets what goes wrong with serving.
	Log *slog.Logger
}

// Backend is what the API works on.
type Backend struct {
	// Ops does what operators do.
	Ops *ops.Ops
	// Rollups are what came of attempts. Nil: the overview has no rates.
	Rollups *consumers.Rollups
	// Defaults hold where a manifest doesn't say.
	Defaults manifest.Defaults
}

// Server serves the operators' side. Make one with Listen and call Run.
type Server struct {
	cfg         Config
	listener    net.Listener
	tokens      []Token
	sessions    *sessions
	hosts       *hosts
	crossOrigin *http.CrossOriginProtection
	listeners   chan struct{} // one for each client of the stream
	stopping    chan struct{} // closed when Run's context ends
}

// Listen takes the address. The error names the setting, so that a taken port
// stops the start with one line.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("BACKSTOP_HTTP_ADDR=%q: %w; choose another address, or stop what uses it", cfg.Addr, err)
	}
	listener = newCapped(listener, maxConnections)
	if cfg.TLS != nil {
		listener = tls.NewListener(listener, cfg.TLS)
	}
	s, err := newServer(cfg, listener)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return s, nil
}

func newServer(cfg Config, listener net.Listener) (*Server, error) {
	s := &Server{
		cfg: cfg, listener: listener, tokens: cfg.Tokens, crossOrigin: http.NewCrossOriginProtection(),
		listeners: make(chan struct{}, maxStreams), stopping: make(chan struct{}),
	}
	if cfg.Token != "" {
		s.tokens = append([]Token{{Name: AdminName, Role: RoleAdmin, Hash: HashToken(cfg.Token)}}, cfg.Tokens...)
	}
	var err error
	if s.hosts, err = newHosts(listener.Addr(), cfg.PublicURL, cfg.Hosts); err != nil {
		return nil, err
	}
	if origin := s.hosts.origin(); origin != "" {
		// A proxy may send on another Host than the browser has asked.
		if err := s.crossOrigin.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
	}
	s.sessions, err = newSessions(cfg.Token, s.tokens)
	return s, err
}

// URL is where the server is reached.
func (s *Server) URL() string {
	if s.cfg.TLS != nil {
		return "https://" + s.listener.Addr().String()
	}
	return "http://" + s.listener.Addr().String()
}

// Addr is the address that was taken.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Limits against strangers: nothing that is served here needs more.
const (
	readTimeout    = 10 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 16 << 10
	stopTimeout    = 3 * time.Second
)

// Run serves until ctx ends, and then lets requests under way finish.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{
		Handler: s.handler(), ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		close(s.stopping) // what takes long ends, for which Shutdown would wait
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		stopped <- srv.Shutdown(stopping)
	})
	err := srv.Serve(s.listener)
	if stop() { // ended by itself
		return err
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-stopped)
}

// Close gives the address up if Run was never called.
func (s *Server) Close() error { return s.listener.Close() }

func (s *Server) handler() http.Handler {
	mux := s.api()
	mux.Handle("/metrics", onlyGet(s.guarded(promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))))
	mux.Handle("/healthz", onlyGet(probe(s.cfg.Healthy)))
	mux.Handle("/readyz", onlyGet(probe(s.cfg.Ready)))
	callbacks := http.Handler(http.HandlerFunc(s.callbacks))
	if s.cfg.CountCallbacks != nil {
		callbacks = s.cfg.CountCallbacks(callbacks)
	}
	mux.Handle("/callbacks/{token...}", callbacks)
	s.dashboard(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, codeNotFound, "there is nothing here; the API is described at /api/v1/openapi.json")
	})
	return secureHeaders(mux)
}

// onlyGet refuses other methods than GET and HEAD.
func onlyGet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			wrongMethod(r, http.MethodGet, http.MethodHead).write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// guarded asks for a token that may read, if there are any.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, refused := s.guard(r, RoleRead); refused != nil {
			refused.write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// probe answers 200 {"status":"ok"}, or 503 with what is wrong.
func probe(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		status, body := http.StatusOK, map[string]string{"status": "ok"}
		var mending MendingError
		switch err := check(); {
		case errors.As(err, &mending):
			body = map[string]string{"status": "mending", "error": err.Error()}
		case err != nil:
			status, body = http.StatusServiceUnavailable, map[string]string{"status": "failing", "error": err.Error()}
		}
		answer(w, status, "application/json", body)
	})
}

// MendingError is trouble that ends without a restart of the process, which
// would only make it longer: a probe says what it is, and answers 200.
type MendingError struct{ Err error }

func (e MendingError) Error() string { return e.Err.Error() }
func (e MendingError) Unwrap() error { return e.Err }
