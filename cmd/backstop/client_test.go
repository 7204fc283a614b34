package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startNATS starts a server that the operator runs, and returns its address.
func startNATS(t *testing.T, opts *server.Options) string {
	t.Helper()
	opts.Host, opts.Port = "127.0.0.1", server.RANDOM_PORT
	return runNATS(t, opts).ClientURL()
}

// runNATS runs a server by the options as they are until the test ends.
func runNATS(t *testing.T, opts *server.Options) *server.Server {
	t.Helper()
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the NATS server doesn't start")
	}
	return s
}

// To a request, a missing permission looks like a server that doesn't answer:
// the command has to say which it is.
func TestMissingPermission(t *testing.T) {
	cleanEnvironment(t)
	viewer := &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"$JS.API.>"}}}
	url := startNATS(t, &server.Options{
		JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "serve", Password: "s"}, {Username: "viewer", Password: "v", Permissions: viewer}},
	})
	nc, err := nats.Connect(url, nats.UserInfo("serve", "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	startPipeline(t, js, true)
	t.Setenv("NATS_URL", url)
	t.Setenv("NATS_USER", "viewer")
	t.Setenv("NATS_PASSWORD", "v")

	// At once, by a warning; the command itself goes on waiting for an answer.
	ctx, interrupt := context.WithCancel(t.Context())
	said, saidWriter := io.Pipe()
	root := newRoot(strings.NewReader(`{"appId": "quiz", "baseUrl": "https://quiz.example.com", "webhooks": {"rules": {"path": "/r"}}}`), io.Discard, saidWriter)
	root.SetArgs([]string{"apps", "apply", "-"})
	ended := make(chan error, 1)
	go func() {
		ended <- root.ExecuteContext(ctx)
		_ = saidWriter.Close()
	}()
	words := bufio.NewScanner(said)
	words.Scan()
	const warning = `backstop: warning: NATS: permissions violation: Permissions Violation for Publish to "audit.app_applied"`
	if !strings.HasPrefix(words.Text(), warning) {
		t.Errorf("it said %q, want %q", words.Text(), warning)
	}
	interrupt()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}

	// In the end, by the error.
	cfg, _, err := LoadConfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := connect(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.nc.Close()
	denied := make(chan error, 1)
	c.nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err })
	if err := c.nc.Publish("$KV.secrets.quiz", nil); err != nil {
		t.Fatal(err)
	}
	if err := <-denied; err == nil {
		t.Fatal("the publish was not denied")
	}
	text := c.explain(fmt.Errorf("app quiz: %w", context.DeadlineExceeded)).Error()
	if !strings.Contains(text, "doesn't permit this login what the command needs") || !strings.Contains(text, "$KV.secrets.quiz") {
		t.Errorf("the error is %q", text)
	}
	if err := c.explain(jetstream.ErrConsumerNotFound); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("an error that has nothing to do with it became %v", err)
	}
}

// A NATS without JetStream answers nothing at all.
func TestNoJetStream(t *testing.T) {
	cleanEnvironment(t)
	t.Setenv("NATS_URL", startNATS(t, &server.Options{}))
	var out, said bytes.Buffer
	if code := run([]string{"status"}, strings.NewReader(""), &out, &said); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if text := said.String(); !strings.Contains(text, "has no JetStream") || !strings.Contains(text, "Try: start nats-server with -js") {
		t.Errorf("it said %q", text)
	}
}

// TLS that fails is told as such, not as a server that can't be reached.
func TestNoTLS(t *testing.T) {
	cleanEnvironment(t)
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	url := startNATS(t, &server.Options{TLS: true, TLSTimeout: 2, TLSConfig: &tls.Config{Certificates: web.TLS.Certificates}})
	t.Setenv("NATS_URL", url)
	var out, said bytes.Buffer
	if code := run([]string{"status"}, strings.NewReader(""), &out, &said); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if text := said.String(); !strings.Contains(text, "no TLS with NATS at "+url) || !strings.Contains(text, "Try: set NATS_CA") {
		t.Errorf("it said %q", text)
	}
}

// A file that can't be what its setting asks for is told at once: nats.go would
// find out when it connects, and serve would wait for NATS for ever.
func TestFilesForNATSAreLookedInto(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("root:x:0:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"NATS_CREDS": {NATSCreds: file}, "NATS_CA": {NATSCA: file}, "NATS_CERT": {NATSCert: file}, "NATS_KEY": {NATSKey: file},
		"BACKSTOP_NATS_CERT": {EmbeddedCert: file},
	} {
		if _, err := connectOptions(cfg); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "-----") {
			t.Errorf("%s: error %v, want one that names it and says what is missing", name, err)
		}
	}
	if _, err := connectOptions(Config{NATSCreds: file + "x"}); err == nil || !strings.Contains(err.Error(), "NATS_CREDS") {
		t.Errorf("a missing file: error %v", err)
	}
}
