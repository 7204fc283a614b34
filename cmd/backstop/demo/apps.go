// Package demo holds the three sample apps of `backstop demo`: one that is
// healthy, one that is slow, and one that crashes.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"sync/atomic"
	"time"

	"backstop/dispatcher/sign"
)

// App is a sample app: an HTTP server that takes webhooks, checks their
// signatures, and behaves in its own way.
type App struct {
	// Name is the app's id: "healthy", "slow" or "crashing".
	Name string
	// About says in a few words what it does.
	About string

	calls   []Call
	delay   time.Duration
	crashes bool
	since   time.Time // of Run

	secret   atomic.Pointer[string]
	listener net.Listener
	seen     atomic.Int64 // requests
	answered atomic.Int64 // with 2xx
	forged   atomic.Int64 // with a signature that isn't right
}

// The crashing app works for a moment, so that there is something to cache, and
// is down then for long enough that its circuit opens: every cycle again.
const (
	cycle    = 20 * time.Second
	downFrom = 4 * time.Second
	downTo   = 10 * time.Second
)

// rejectEvery is how often the crashing app, when it is up, says that it will
// never take an event: something for the dead letters.
const rejectEvery = 20

// Apps returns the sample apps, listening on free ports of loopback. Close
// them by ending the context of Run.
func Apps(ctx context.Context) ([]*App, error) {
	apps := []*App{
		{Name: "healthy", About: "answers at once", calls: []Call{quizAnswer}},
		{Name: "slow", About: "answers after 1.5 s", calls: []Call{quizAnswer, registration}, delay: 1500 * time.Millisecond},
		{
			Name: "crashing", About: "drops the connection, for a while", calls: []Call{quizRules, winners},
			crashes: true,
		},
	}
	var lc net.ListenConfig
	for _, a := range apps {
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		a.listener = l
	}
	return apps, nil
}

// SetSecret gives the app its signing secret, as `backstop apps apply` printed it.
func (a *App) SetSecret(secret string) { a.secret.Store(&secret) }

// Counts returns how many requests came, were answered, and were forged.
func (a *App) Counts() (seen, answered, forged int64) {
	return a.seen.Load(), a.answered.Load(), a.forged.Load()
}

// Manifest returns what the app declares.
func (a *App) Manifest() []byte {
	breaker := map[string]any{"failureThreshold": 5, "recoveryTimeout": 8000, "successThreshold": 2}
	webhooks := map[string]any{
		"analytics": map[string]any{
			"path": "/webhooks/analytics", "async": true, "timeout": 3000, "breaker": breaker,
			"retry": map[string]any{"maxAttempts": 3, "initialDelay": 500, "maxDelay": 5000},
		},
	}
	for _, c := range a.calls {
		webhook := map[string]any{"path": "/webhooks/" + c.Capability, "timeout": 1000, "breaker": breaker}
		if c.fallback != nil { // or it is the capability's own
			webhook["fallback"] = c.fallback
		}
		webhooks[c.Capability] = webhook
	}
	data, err := json.MarshalIndent(map[string]any{
		"appId": a.Name, "name": "Sample app that " + a.About, "baseUrl": "http://" + a.listener.Addr().String(),
		"health": map[string]any{"path": "/health"}, "webhooks": webhooks,
	}, "", "  ")
	if err != nil {
		panic(err) // strings and numbers
	}
	return data
}

// Run serves until ctx ends.
func (a *App) Run(ctx context.Context) error {
	a.since = time.Now()
	srv := &http.Server{Handler: a, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("sample app %s: %w", a.Name, err)
	}
	return nil
}

// ServeHTTP is the app: its webhooks, and its health.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/health" {
		if a.down() {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{"status":"ok"}`)
		return
	}
	n := a.seen.Add(1) - 1
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		return
	}
	if secret := a.secret.Load(); secret == nil || sign.Verify(r.Header, body, time.Now(), *secret) != nil {
		a.forged.Add(1)
		http.Error(w, `{"success":false,"error":{"code":"BAD_SIGNATURE","message":"the signature is not right"}}`, http.StatusUnauthorized)
		return
	}
	capability := path.Base(r.URL.Path)
	if a.down() {
		panic(http.ErrAbortHandler) // drops the connection without a word in the log
	}
	if a.crashes && capability == "analytics" && n%rejectEvery == rejectEvery-1 {
		http.Error(w, `{"success":false,"error":{"code":"UNKNOWN_QUIZ","message":"there is no such quiz"}}`, http.StatusUnprocessableEntity)
		return
	}
	select {
	case <-r.Context().Done():
		panic(http.ErrAbortHandler) // returning would answer 200
	case <-time.After(a.delay):
	}
	a.answered.Add(1)
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, answerTo(capability))
}

// down tells whether the app is crashing just now.
func (a *App) down() bool {
	at := time.Since(a.since) % cycle
	return a.crashes && at >= downFrom && at < downTo
}
