package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// following runs a command that goes on until it is interrupted, and passes its
// lines to see until that returns false.
func following(t *testing.T, see func(line string) bool, args ...string) {
	t.Helper()
	ctx, interrupt := context.WithTimeout(t.Context(), time.Minute)
	defer interrupt()
	out, writer := io.Pipe()
	root := newRoot(strings.NewReader(""), writer, io.Discard)
	root.SetArgs(args)
	ended := make(chan error, 1)
	go func() {
		ended <- root.ExecuteContext(ctx)
		_ = writer.Close()
	}()
	lines, seen := bufio.NewScanner(out), false
	for !seen && lines.Scan() {
		seen = !see(lines.Text())
	}
	interrupt()
	_, _ = io.Copy(io.Discard, out)
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%s ended with %v", args[0], err)
	}
	if !seen {
		t.Errorf("%s: what was waited for did not come", args[0])
	}
}

// What happens while somebody looks on is shown; what happened before is not.
func TestFollowing(t *testing.T) {
	cleanEnvironment(t)
	srv := natstest.Start(t, natstest.Listen())
	t.Setenv("NATS_URL", srv.URL())
	js := srv.JetStream()
	if err := streams.NewTopology(js, streams.Settings{StoreBytes: 1 << 30}).Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	happen(t, js, "before")
	ctx, stop := context.WithCancel(t.Context())
	happening := make(chan struct{})
	go func() { // again and again, as nobody knows when a command has begun
		defer close(happening)
		for ctx.Err() == nil {
			happen(t, js, "now")
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	for _, command := range []string{"notices", "attempts"} {
		following(t, func(line string) bool {
			if strings.Contains(line, "before") || !strings.Contains(line, "quiz") {
				t.Errorf("%s printed %q", command, line)
			}
			return !strings.Contains(line, "now")
		}, command, "--follow", "--json")
	}
	stop()
	<-happening
	documents := 0
	following(t, func(line string) bool {
		if !strings.HasPrefix(line, `{"time":"`) {
			t.Errorf("status printed %q", line)
		}
		documents++
		return documents < 2
	}, "status", "--watch", "--json", "--interval", "1ms")
	pictures := 0
	following(t, func(line string) bool {
		if line == "Dead letters" {
			pictures++
		}
		return pictures < 2
	}, "status", "--watch", "--interval", "1ms")
}

// happen publishes a notice and an attempt, and returns when both are stored: a
// flush only says that the server has read them, and a follower that began then
// still saw "before" once.
func happen(t *testing.T, js jetstream.JetStream, what string) {
	t.Helper()
	notice, err := streams.Notice{Kind: streams.NoticeMisconfigured, App: "quiz", Time: time.Now(), Message: what}.Msg()
	if err != nil {
		t.Error(err)
	}
	attempt, err := streams.Attempt{ID: what, App: "quiz", Capability: "analytics", Time: time.Now(), Verdict: "delivered"}.Msg()
	if err != nil {
		t.Error(err)
	}
	for _, msg := range []*nats.Msg{notice, attempt} {
		if _, err := js.PublishMsg(t.Context(), msg); err != nil {
			t.Error(err)
		}
	}
}
