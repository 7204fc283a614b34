package admin_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"backstop/cmd/backstop/admin"
	"backstop/streams"
)

// listener reads server-sent events.
type listener struct {
	t      *testing.T
	lines  chan string
	cancel context.CancelFunc
}

// listenTo opens the stream, and returns once it is connected.
func (b *bundle) listenTo(query string, headers ...string) *listener {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	b.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/api/v1/stream"+query, nil)
	b.must(err)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		req.Header.Set(name, value)
	}
	client := &http.Client{}
	resp, err := client.Do(req) //nolint:bodyclose // by the reader below
	b.must(err)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		b.Fatalf("stream: %d %v", resp.StatusCode, resp.Header)
	}
	l := &listener{t: b.T, lines: make(chan string, 100), cancel: cancel}
	go func() {
		defer close(l.lines)
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			l.lines <- lines.Text()
		}
		client.CloseIdleConnections()
	}()
	l.until(": connected")
	return l
}

// until reads on to a line that begins so, and returns it; "" at the end.
func (l *listener) until(prefix string) string {
	l.t.Helper()
	for {
		select {
		case line, open := <-l.lines:
			if !open || strings.HasPrefix(line, prefix) {
				return line
			}
		case <-time.After(20 * time.Second):
			l.t.Fatalf("no line %q arrives", prefix)
		}
	}
}

// event returns the id and the data of the next event.
func (l *listener) event() string {
	l.t.Helper()
	id := strings.TrimPrefix(l.until("id: "), "id: ")
	data := l.until("data: ")
	_, message, _ := strings.Cut(data, `"message":"`)
	message, _, _ = strings.Cut(message, `"`)
	return id + " " + message
}

func (l *listener) expect(want ...string) {
	l.t.Helper()
	for _, w := range want {
		if got := l.event(); got != w {
			l.t.Errorf("event %q, want %q", got, w)
		}
	}
}

func TestStream(t *testing.T) {
	b := start(t, admin.Config{})
	b.notice(streams.NoticeBreakerOpened, "before")
	fresh := b.listenTo("")
	placed := b.listenTo("?after=1")
	for i := range 3 {
		b.notice(streams.NoticeBreakerOpened, fmt.Sprintf("n%d", i))
	}
	placed.expect("2 n0", "3 n1", "4 n2")
	fresh.expect("2 n0", "3 n1", "4 n2")
	fresh.cancel()

	// A browser that comes back misses nothing.
	placed.cancel()
	b.notice(streams.NoticeBreakerClosed, "away")
	back := b.listenTo("?after=1", "Last-Event-ID: 4")
	back.expect("5 away")
	b.notice(streams.NoticeBreakerClosed, "here")
	back.expect("6 here")
	all := b.listenTo("?after=0")
	all.expect("1 before", "2 n0", "3 n1", "4 n2", "5 away", "6 here")
	// A place that the stream has not reached, as after it was made anew.
	ahead := b.listenTo("?after=999")
	for arrived := false; !arrived; { // its consumer takes a moment
		b.notice(streams.NoticeBreakerClosed, "again")
		select {
		case line := <-ahead.lines:
			arrived = strings.HasPrefix(line, "id: ")
		case <-time.After(20 * time.Millisecond):
		}
	}
	b.want(400, "bad_query", "GET", "/api/v1/stream?after=x", "")
	b.want(400, "bad_query", "GET", "/api/v1/stream", "", "Last-Event-ID: -1")
}

func TestStreamIsBounded(t *testing.T) {
	b := start(t, admin.Config{})
	var first *listener
	for range admin.MaxStreams {
		if l := b.listenTo("?after=0"); first == nil {
			first = l
		}
	}
	if a := b.want(503, "unavailable", "GET", "/api/v1/stream", ""); a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	// One that goes makes room.
	first.cancel()
	deadline := time.Now().Add(20 * time.Second)
	for b.do("HEAD", "/api/v1/stream", "").status != 200 {
		if time.Now().After(deadline) {
			t.Fatal("a client that has gone still counts")
		}
	}
}

// A stream leaves no consumer behind.
func TestStreamLeavesNothing(t *testing.T) {
	b := start(t, admin.Config{})
	l := b.listenTo("?after=0")
	b.notice(streams.NoticeBreakerClosed, "here")
	l.expect("1 here")
	l.cancel()
	deadline := time.Now().Add(20 * time.Second)
	for {
		stream, err := b.js.Stream(t.Context(), streams.NoticeStream)
		b.must(err)
		if stream.CachedInfo().State.Consumers == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("its consumer is still there")
		}
	}
}

// At the end, streams end too, and Run waits for nobody.
func TestShutdownEndsStreams(t *testing.T) {
	b := start(t, admin.Config{})
	fine := func() error { return nil }
	srv, err := admin.Listen(t.Context(), admin.Config{
		Addr: "127.0.0.1:0", Metrics: prometheus.NewRegistry(), Healthy: fine, Ready: fine, Backend: b.backend.Load, Log: slog.New(slog.DiscardHandler),
	})
	b.must(err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	other := &bundle{T: t, url: srv.URL(), client: b.client}
	l := other.listenTo("")
	stop()
	if line := l.until("never"); line != "" {
		t.Errorf("read %q", line)
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}
