package embedded

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// smallDisk mounts a file system of so many MiB in memory, which takes root.
func smallDisk(t *testing.T, mib string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("not proven here: only root can mount the small disk that this test fills")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size="+mib+"m", "backstop-test", dir).CombinedOutput(); err != nil {
		t.Skipf("not proven here: no disk can be mounted to be filled: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// fill writes a file as large as it takes for no more than free bytes to be left.
func fill(t *testing.T, dir string, free int64) (remove func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); ; {
		left, err := freeBytes(dir)
		if err != nil {
			t.Fatal(err)
		}
		if left <= free {
			break
		}
		if _, err := f.Write(block); err != nil {
			break // full
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// A disk that is nearly full: publishers are told so at once, what is stored
// can be worked off, and the server isn't restarted, as nothing has failed.
func TestNearlyFullDiskRefusesPublishes(t *testing.T) {
	disk := smallDisk(t, "256")
	s := start(t, Config{DataDir: filepath.Join(disk, "data")})
	js, stream := makeStream(t, s)
	publish(t, js, "kept")
	before := s.running.Load()
	remove := fill(t, disk, lowRoom-1<<20)

	err := awaitRefusal(t, js)
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != 10002 {
		t.Errorf("publishing onto a nearly full disk: %v, want error 10002", err)
	}
	err = s.Health()
	checkMessage(t, err, "is full", "MiB free", "publishes are refused", "free some space", "goes on by itself")
	if !errors.Is(err, ErrMendsItself) {
		t.Errorf("a supervisor would restart it: %v", err)
	}
	c, err := stream.CreateOrUpdateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.DoubleAck(t.Context()); err != nil {
		t.Errorf("an ack on a nearly full disk: %v", err)
	}

	remove()
	awaitHealth(t, s)
	publish(t, js, "and on")
	if s.running.Load() != before {
		t.Error("the server was restarted, though no write had failed")
	}
}

// awaitRefusal publishes until that is refused, and returns why.
func awaitRefusal(t *testing.T, js jetstream.JetStream) error {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < time.Minute; {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := js.Publish(ctx, "s.a", []byte("filling"), jetstream.WithRetryAttempts(0))
		cancel()
		if err != nil {
			return err
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Fatal("publishes are still taken")
	return nil
}

// A disk that fills faster than anybody looks: writes fail, and what was
// acknowledged, events as well as acks, is there when there is room again.
func TestFullDiskMendsItself(t *testing.T) {
	disk := smallDisk(t, "128")
	s := start(t, Config{DataDir: filepath.Join(disk, "data"), Addr: "127.0.0.1:0"})
	js, stream := makeStream(t, s)
	c, err := stream.CreateOrUpdateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	url := s.ClientURL()
	acknowledged := map[uint64]bool{}
	for round := range 3 {
		remove := fill(t, disk, 0)
		for refused := 0; refused < 3; {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			ack, err := js.Publish(ctx, "s.a", make([]byte, 3000), jetstream.WithRetryAttempts(0))
			cancel()
			if err != nil {
				refused++
				continue
			}
			acknowledged[ack.Sequence] = true
		}
		if msg, err := c.Next(jetstream.FetchMaxWait(2 * time.Second)); err == nil {
			if meta, err := msg.Metadata(); err == nil && msg.DoubleAck(t.Context()) == nil {
				delete(acknowledged, meta.Sequence.Stream)
			}
		}
		if err := s.Health(); !errors.Is(err, ErrMendsItself) {
			t.Errorf("round %d: on a full disk: %v", round, err)
		}
		remove()
		awaitHealth(t, s)
		publish(t, js, "and on")
	}
	if got := s.ClientURL(); got != url {
		t.Errorf("clients outside would look for it at %s, and it is at %s", url, got)
	}
	for len(acknowledged) > 0 {
		msg, err := c.Next(jetstream.FetchMaxWait(40 * time.Second)) // the default ack wait is 30 s
		if err != nil {
			t.Fatalf("%d events that were acknowledged don't come: %v", len(acknowledged), err)
		}
		if meta, err := msg.Metadata(); err == nil {
			delete(acknowledged, meta.Sequence.Stream)
		}
		_ = msg.Ack()
	}
}

// Restarts that don't help come less and less often, and start anew after a
// calm.
func TestRestartsKeepApart(t *testing.T) {
	var p pace
	now := time.Unix(1e9, 0)
	for _, seconds := range []int{5, 10, 20, 40, 80, 160, 300, 300} {
		if !p.due(now) {
			t.Fatalf("not due after its gap")
		}
		p.took(now)
		if got := p.next.Sub(now); got != time.Duration(seconds)*time.Second {
			t.Errorf("the next one is due in %v, want %d s", got, seconds)
		}
		if now = p.next; p.due(now.Add(-time.Nanosecond)) {
			t.Error("due before its gap is over")
		}
	}
	now = now.Add(restartCalm)
	if p.took(now); p.gap != restartGap {
		t.Errorf("after a calm the gap is %v", p.gap)
	}
}
