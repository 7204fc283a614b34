package embedded

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The child: this test binary once more, with its role in the environment.
const (
	childRole = "EMBEDDED_TEST_ROLE"
	childDir  = "EMBEDDED_TEST_DIR"

	rolePublish = "publish" // publishes until killed, prints each acknowledged sequence
	roleStart   = "start"   // prints Start's error
	roleSignal  = "signal"  // says what a SIGTERM does to the server

	exitStillRunning = 7
)

func runChild(role string) int {
	ctx := context.Background()
	s, err := Start(ctx, Config{DataDir: os.Getenv(childDir), Addr: AddrOff})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer s.Shutdown(ctx)
	switch role {
	case rolePublish:
		err = publishForEver(ctx, s)
	case roleSignal:
		return awaitSignal(s)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func publishForEver(ctx context.Context, s *Server) error {
	nc, err := s.Connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		return err
	}
	for {
		ack, err := js.Publish(ctx, "s.a", []byte("x"))
		if err != nil {
			return err
		}
		fmt.Println(ack.Sequence)
	}
}

func awaitSignal(s *Server) int {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM)
	fmt.Println("ready")
	<-ch
	down := make(chan struct{})
	go func() { s.running.Load().WaitForShutdown(); close(down) }()
	select {
	case <-down:
		return 1
	case <-time.After(300 * time.Millisecond): // nothing may happen, so there is nothing to wait for
		return exitStillRunning
	}
}

// child starts the test binary in a role. The caller waits for it.
func child(t *testing.T, role, dir string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childRole+"="+role, childDir+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewReader(out)
}

func TestDataDirOfAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	start(t, Config{DataDir: dir})
	cmd, out := child(t, roleStart, dir)
	said, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a second process took the directory")
	}
	checkMessage(t, fmt.Errorf("%s", strings.TrimSpace(string(said))), envDataDir, dir, "process "+strconv.Itoa(os.Getpid()))
}

// What was acknowledged is there after SIGKILL, and the directory is free.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	cmd, out := child(t, rolePublish, dir)
	last := 0
	for range 50 {
		last = readInt(t, out)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for { // what it still said before the signal came
		line, err := out.ReadString('\n')
		if err != nil {
			break
		}
		last, _ = strconv.Atoi(strings.TrimSpace(line))
	}
	_ = cmd.Wait()

	_, stream := makeStream(t, start(t, Config{DataDir: dir}))
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := info.State.LastSeq; got < uint64(last) {
		t.Errorf("%d messages were acknowledged, %d are there", last, got)
	}
}

func readInt(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Signals are the embedding process's own business.
func TestSignalsAreLeftAlone(t *testing.T) {
	cmd, out := child(t, roleSignal, t.TempDir())
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatal(line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != exitStillRunning {
		t.Errorf("after SIGTERM the process exits with %d, want %d: the server took the signal", got, exitStillRunning)
	}
}
