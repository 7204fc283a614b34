package embedded

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A disk that fills is made of a limit on the size of files: a failed write is
// a failed write, and this one needs no privilege. The limit is the whole
// process's, so the test is a process of its own: go test keeps a file of what
// tests open, and failed all of them once when that grew too large meanwhile.
func TestHealthTellsOfFailedWrites(t *testing.T) {
	const alone = "EMBEDDED_TEST_ALONE"
	if os.Getenv(alone) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), alone+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	s := start(t, Config{DataDir: dir})
	js, stream := makeStream(t, s)
	publish(t, js, "kept")
	if err := s.Health(); err != nil {
		t.Fatalf("healthy, and yet: %v", err)
	}

	limitFileSize(t, probeSize/2)

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := js.Publish(ctx, "s.a", make([]byte, probeSize)); err == nil {
		t.Fatal("the publish was acknowledged, though it can't have been written")
	}

	if err := s.Health(); !errors.Is(err, ErrMendsItself) && !strings.Contains(err.Error(), "file too large") {
		t.Errorf("a failed write: %v", err)
	}

	// Room again: nobody has to do anything more, and connections stay.
	limitFileSize(t, ^uint64(0))
	awaitHealth(t, s)
	publish(t, js, "and on")
	if msg, err := stream.GetMsg(t.Context(), 1); err != nil || string(msg.Data) != "kept" {
		t.Errorf("what was acknowledged before: %v, %v", msg, err)
	}
}

// awaitHealth waits until the server calls itself healthy.
func awaitHealth(t *testing.T, s *Server) {
	t.Helper()
	for begin := time.Now(); ; {
		err := s.Health()
		if err == nil {
			return
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("still not healthy: %v", err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// A process killed while it makes a stream, or a failing disk, can leave a
// stream without its description. nats-server then goes on without the stream;
// making it again, as Backstop does at each start, brings everything back. That
// is why Start doesn't refuse such a store.
func TestDamagedStreamIsRepairedByMakingItAgain(t *testing.T) {
	dir := t.TempDir()
	consumer := jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy}

	s := start(t, Config{DataDir: dir})
	js, stream := makeStream(t, s)
	publish(t, js, "acked")
	publish(t, js, "pending")
	c, err := stream.CreateOrUpdateConsumer(t.Context(), consumer)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	js.Conn().Close()
	s.Shutdown(t.Context())
	if err := os.Remove(filepath.Join(dir, "jetstream", "$G", "streams", "S", "meta.inf")); err != nil {
		t.Fatal(err)
	}

	s = start(t, Config{DataDir: dir})
	checkMessage(t, s.Health(), "$G > S", "could not be recovered")
	_, stream = makeStream(t, s)
	if err := s.Health(); err != nil {
		t.Errorf("after making it again: %v", err)
	}
	if c, err = stream.CreateOrUpdateConsumer(t.Context(), consumer); err != nil {
		t.Fatal(err)
	}
	if msg, err = c.Next(); err != nil || string(msg.Data()) != "pending" {
		t.Errorf("next is %v, %v, want the one that was not acked", msg, err)
	}
}

func limitFileSize(t *testing.T, bytes uint64) {
	t.Helper()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: min(bytes, was.Max), Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
			t.Error(err)
		}
	})
}
