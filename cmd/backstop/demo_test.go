package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines collects a command's output and tells when all that is waited for has
// been said.
type lines struct {
	mu     sync.Mutex
	text   bytes.Buffer
	expect []string
	done   func()
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.text.Write(p)
	l.expect = slices.DeleteFunc(l.expect, func(s string) bool { return strings.Contains(l.text.String(), s) })
	if len(l.expect) == 0 {
		l.done()
	}
	return n, err
}

// TestDemo: the demo shows what it is there to show, and leaves nothing behind.
func TestDemo(t *testing.T) {
	t.Setenv("NATS_URL", "")
	t.Setenv("BACKSTOP_NATS_ADDR", freePort(t)) // which its commands have to find
	t.Setenv("BACKSTOP_HTTP_ADDR", "127.0.0.1:0")
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	out := &lines{done: cancel, expect: []string{
		"app healthy ",
		"call quizAnswer to healthy",
		"Answered by the platform's default (timeout)",
		"Pending (timeout)",
		"breaker_opened",
		"Answered by the platform's default (circuit_open)", // at once
		"Answered by the cache",
		"Answered by the platform's default (connection) {\"winners\":",
	}}
	root := newRoot(strings.NewReader(""), out, t.Output())
	root.SetArgs([]string{"demo"})
	err := root.ExecuteContext(ctx)
	out.mu.Lock()
	defer out.mu.Unlock()
	if err != nil || len(out.expect) > 0 {
		t.Errorf("the demo ended with %v and did not say %q; it said\n%s", err, out.expect, out.text.String())
	}
	if !strings.HasSuffix(out.text.String(), "everything is removed\n") {
		t.Errorf("it ended with %q", out.text.String())
	}
}
