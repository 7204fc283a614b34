package admin_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"backstop/cmd/backstop/admin"
)

func TestProtocol(t *testing.T) {
	b := start(t, admin.Config{})
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest)
	for _, tc := range []struct {
		method, path string
		headers      []string
		status       int
		code, why    string
	}{
		{"GET", "/api/v1/nothing", nil, 404, "not_found", "no such path"},
		{"GET", "/api/v2/apps", nil, 404, "not_found", "no such version"},
		{"GET", "/api/v1/apps/quiz?pretty", nil, 400, "bad_query", "no such parameter"},
		{"GET", "/api/v1/apps/quiz?a=%zz", nil, 400, "bad_query", "a broken query"},
	} {
		a := b.want(tc.status, tc.code, tc.method, tc.path, "", tc.headers...)
		if tc.status >= 400 && a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: Content-Type %s", tc.why, a.header.Get("Content-Type"))
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := a.header.Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", tc.why, name, got, want)
			}
		}
	}
	for path, allow := range map[string]string{
		"/api/v1/apps": "GET, HEAD", "/api/v1/apps/quiz": "DELETE, GET, HEAD, PUT", "/api/v1/dlq/replay": "POST",
	} {
		if a := b.want(405, "method_not_allowed", "PATCH", path, ""); a.header.Get("Allow") != allow {
			t.Errorf("%s allows %q, want %q", path, a.header.Get("Allow"), allow)
		}
	}
}

func TestBeforeNATSIsReached(t *testing.T) {
	b := listen(t, admin.Config{})
	if a := b.want(503, "unavailable", "GET", "/api/v1/apps", ""); a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	b.want(200, "", "GET", "/healthz", "")
}

func TestLargeHeadersAreRefused(t *testing.T) {
	b := listen(t, admin.Config{})
	// Not by b.do: the server hangs up before it has read them.
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(b.url, "http://"))
	b.must(err)
	defer conn.Close()
	go func() {
		_, _ = conn.Write([]byte("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n"))
	}()
	answer := make([]byte, 12)
	b.must(conn.SetReadDeadline(time.Now().Add(20 * time.Second)))
	if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 431" {
		t.Errorf("answer %q, %v", answer, err)
	}
}
