package embedded

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

// TestMain lets the test binary be its own second process (see child_test.go),
// and sees that no test leaves a goroutine behind.
func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(runChild(role))
	}
	goleak.VerifyTestMain(m)
}

// start runs a server in a directory of its own, reachable in-process only
// unless cfg says otherwise.
func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.DataDir == "" {
		cfg.DataDir = t.TempDir()
	}
	if cfg.Addr == "" {
		cfg.Addr = AddrOff
	}
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(over()) })
	return s
}

// over returns a context that has ended, with which Shutdown doesn't linger.
func over() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func connect(t *testing.T, s *Server) *nats.Conn {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// makeStream returns a JetStream context and a stream S on subjects s.>.
func makeStream(t *testing.T, s *Server) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	js, err := jetstream.New(connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	if err != nil {
		t.Fatal(err)
	}
	return js, stream
}

func publish(t *testing.T, js jetstream.JetStream, payload string) {
	t.Helper()
	if _, err := js.Publish(t.Context(), "s.a", []byte(payload)); err != nil {
		t.Fatal(err)
	}
}

func TestRestartKeepsData(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Config{DataDir: dir})
	js, _ := makeStream(t, s)
	publish(t, js, "first")
	s.Shutdown(t.Context())

	s = start(t, Config{DataDir: dir})
	js, stream := makeStream(t, s)
	publish(t, js, "second")
	for seq, want := range map[uint64]string{1: "first", 2: "second"} {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if string(msg.Data) != want {
			t.Errorf("message %d is %q, want %q", seq, msg.Data, want)
		}
	}
}

func TestToken(t *testing.T) {
	s := start(t, Config{Addr: "127.0.0.1:0", Token: "s3cret"})
	connect(t, s) // presents it by itself
	tests := []struct {
		why  string
		opts []nats.Option
		ok   bool
	}{
		{"with the token", []nats.Option{nats.Token("s3cret")}, true},
		{"without one", nil, false},
		{"with another", []nats.Option{nats.Token("s3cre")}, false},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			nc, err := nats.Connect(s.ClientURL(), tt.opts...)
			if err == nil {
				nc.Close()
			}
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("connect: %v", err)
			}
		})
	}
	if strings.Contains(s.ClientURL(), "s3cret") {
		t.Errorf("the URL %s gives the token away", s.ClientURL())
	}
}

func TestClientURL(t *testing.T) {
	if got := start(t, Config{Addr: AddrOff}).ClientURL(); got != "" {
		t.Errorf("a server that doesn't listen has the URL %q", got)
	}
	s := start(t, Config{Addr: ":0", Token: "s3cret"})
	if !strings.HasPrefix(s.ClientURL(), "nats://127.0.0.1:") {
		t.Errorf("a server on every interface has the URL %q, which nobody can connect to", s.ClientURL())
	}
	nc, err := nats.Connect(s.ClientURL(), nats.Token("s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestPortTaken(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	_, err = Start(t.Context(), Config{DataDir: dir, Addr: l.Addr().String()})
	checkMessage(t, err, envAddr, l.Addr().String(), "in use", "another port", AddrOff)
	if _, err := os.Stat(filepath.Join(dir, "jetstream")); err == nil {
		t.Error("JetStream was started before the port was looked at")
	}
	// Nothing is left of the attempt: the directory is free again.
	start(t, Config{DataDir: dir})
}

func TestAddressOfAnotherMachine(t *testing.T) {
	_, err := Start(t.Context(), Config{DataDir: t.TempDir(), Addr: "192.0.2.1:4222", Token: "s3cret"}) // RFC 5737
	checkMessage(t, err, envAddr, "192.0.2.1:4222", "address of this machine")
}

func TestInsteadOf(t *testing.T) {
	// A privileged port can't be tried by a test that may run as root.
	if got := insteadOf(syscall.EACCES); !strings.Contains(got, "1024") {
		t.Errorf("for a privileged port: %q", got)
	}
}

func TestServerCantStart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "jetstream")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Config{DataDir: dir, Addr: AddrOff})
	checkMessage(t, err, "JetStream", "not a directory")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	start(t, Config{DataDir: dir})
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	dir := t.TempDir()
	if _, err := Start(over(), Config{DataDir: dir, Addr: AddrOff}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	start(t, Config{DataDir: dir}) // the lock is free again
}

// An event of 1 MiB has to fit as a dead letter, with the headers that this adds.
func TestMaxPayload(t *testing.T) {
	js, _ := makeStream(t, start(t, Config{}))
	msg := nats.NewMsg("s.a")
	msg.Data = make([]byte, 1<<20)
	msg.Header.Set("Backstop-Error", strings.Repeat("x", 60<<10))
	if _, err := js.PublishMsg(t.Context(), msg); err != nil {
		t.Errorf("1 MiB and 60 KiB of headers: %v", err)
	}
	if _, err := js.Publish(t.Context(), "s.a", make([]byte, MaxPayload+1)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestLogIsQuietAndWithoutSecrets(t *testing.T) {
	var log bytes.Buffer
	s := start(t, Config{
		Addr: "127.0.0.1:0", Token: "s3cret",
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	js, _ := makeStream(t, s)
	publish(t, js, "a payload")
	if _, err := nats.Connect(s.ClientURL(), nats.Token("a wrong one")); err == nil {
		t.Error("connected with a wrong token")
	}
	s.Shutdown(over())
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "server is ready") && !strings.Contains(line, "authentication error") {
			t.Errorf("unexpected line: %s", line)
		}
	}
	for _, secret := range []string{"s3cret", "a wrong one", "a payload"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %q:\n%s", secret, &log)
		}
	}
	if !strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("the refused client is missing:\n%s", &log)
	}
}
