package main

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"backstop/embedded/natstest"
)

// Ctrl-C while `apps apply` waits for a pipeline: it ends at once, and says so.
func TestInterrupt(t *testing.T) {
	cleanEnvironment(t)
	srv := natstest.Start(t, natstest.Listen())
	startPipeline(t, srv.JetStream(), true)
	t.Setenv("NATS_URL", srv.URL())

	in := strings.NewReader(`{"appId": "quiz", "baseUrl": "https://quiz.example.com", "webhooks": {"analytics": {"path": "/a"}}}`)
	out, outWriter := io.Pipe()
	var said bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run([]string{"apps", "apply", "-"}, in, outWriter, &said)
		_ = outWriter.Close()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "Added quiz") {
		t.Fatalf("it said %q and %q", lines.Text(), said.String())
	}
	// It handles signals by now, so that this one doesn't end the test.
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if got := <-code; got != exitFailed || !strings.HasSuffix(said.String(), "backstop: interrupted\n") {
		t.Errorf("exit code %d, said %q", got, said.String())
	}
}

// Every command has a help text with an example, and is told in one line.
func TestHelp(t *testing.T) {
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if sub.Name() == "help" || sub.Name() == "completion" || sub.Name() == "settings" {
				continue
			}
			if sub.Short == "" || strings.HasSuffix(sub.Short, ".") || len(sub.Short) > 90 {
				t.Errorf("%s: short text %q", sub.CommandPath(), sub.Short)
			}
			if !strings.Contains(sub.Example, "  "+sub.CommandPath()) {
				t.Errorf("%s: no example of its own in %q", sub.CommandPath(), sub.Example)
			}
			visit(sub)
		}
	}
	visit(newRoot(strings.NewReader(""), io.Discard, io.Discard))
}
