// Package admin is Backstop's HTTP side for operators and machines: health,
// readiness, metrics, and the callbacks of apps.
package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config says what the server tells of. All fields but TLS, Token, Callbacks
// and CountCallbacks are required.
type Config struct {
	// Addr is "host:port".
	Addr string
	// TLS is served under, if it isn't nil.
	TLS *tls.Config
	// Token is the bearer token that /metrics asks for. Empty asks for none,
	// which is for loopback only. Health and readiness ask for none: probes
	// have none, and learn nothing that matters.
	Token string
	// Metrics are served at /metrics.
	Metrics prometheus.Gatherer
	// Healthy is asked by /healthz: an error means that a restart may help.
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
	// Log gets what goes wrong with serving.
	Log *slog.Logger
}

// Server serves the operators' side. Make one with Listen and call Run.
type Server struct {
	cfg      Config
	listener net.Listener
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
	return &Server{cfg: cfg, listener: listener}, nil
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
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.guarded(promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{EnableOpenMetrics: true})))
	mux.Handle("GET /healthz", probe(s.cfg.Healthy))
	mux.Handle("GET /readyz", probe(s.cfg.Ready))
	callbacks := http.Handler(http.HandlerFunc(s.callbacks))
	if s.cfg.CountCallbacks != nil {
		callbacks = s.cfg.CountCallbacks(callbacks)
	}
	mux.Handle("/callbacks/{token...}", callbacks)
	return mux
}

// guarded asks for the token, if there is one.
func (s *Server) guarded(next http.Handler) http.Handler {
	if s.cfg.Token == "" {
		return next
	}
	want := sha256.Sum256([]byte("Bearer " + s.cfg.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Of equal length whatever was sent, so that the comparison takes the
		// same time.
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="backstop"`)
			http.Error(w, "send the header Authorization: Bearer and BACKSTOP_ADMIN_TOKEN", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// probe answers 200 {"status":"ok"}, or 503 with what is wrong.
func probe(check func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		status, body := http.StatusOK, map[string]string{"status": "ok"}
		if err := check(); err != nil {
			status, body = http.StatusServiceUnavailable, map[string]string{"status": "failing", "error": err.Error()}
		}
		answer(w, status, "application/json", body)
	})
}
