package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"backstop/dispatcher/sign"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// listening is a `backstop listen` that runs in this process.
type listening struct {
	url   string
	lines *bufio.Scanner // what it prints
	stop  func() error
}

func startListen(t *testing.T, args ...string) *listening {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, outWriter := io.Pipe()
	said, saidWriter := io.Pipe()
	root := newRoot(strings.NewReader(""), outWriter, saidWriter)
	root.SetArgs(append([]string{"listen", "--addr", "127.0.0.1:0"}, args...))
	ended := make(chan error, 1)
	go func() {
		ended <- root.ExecuteContext(ctx)
		_ = outWriter.Close()
		_ = saidWriter.Close()
	}()
	words := bufio.NewScanner(said)
	if !words.Scan() {
		t.Fatalf("it said nothing and ended: %v", <-ended)
	}
	_, rest, _ := strings.Cut(words.Text(), "Listening on ")
	url, _, ok := strings.Cut(rest, ";")
	if !ok {
		t.Fatalf("no address in %q", words.Text())
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, said)
	}()
	stopped := false
	l := &listening{url: url, lines: bufio.NewScanner(out)}
	l.stop = func() error {
		stopped = true
		cancel()
		go func() { _, _ = io.Copy(io.Discard, out) }()
		err := <-ended
		<-drained
		return err
	}
	t.Cleanup(func() {
		if !stopped {
			_ = l.stop()
		}
	})
	return l
}

func (l *listening) post(t *testing.T, header http.Header, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.url+"/api/analytics", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	type result struct {
		status int
		body   []byte
		err    error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := (&http.Client{}).Do(req)
		if err != nil {
			done <- result{err: err}
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		done <- result{resp.StatusCode, body, err}
	}()
	// It prints before it answers, and a pipe waits for its reader.
	if !l.lines.Scan() {
		t.Fatal("it printed nothing")
	}
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.status, string(r.body)
}

func webhookHeader() http.Header {
	h := http.Header{}
	h.Set("X-Request-ID", "order-1")
	h.Set("X-Platform-App", "quiz")
	h.Set("X-Platform-Capability", "analytics")
	h.Set("X-Platform-Attempt", "2")
	return h
}

func TestListenVerifies(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(testSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	body := `{"test": 2432232314}`
	signed := func(now time.Time, body string) http.Header {
		h := webhookHeader()
		if err := sign.NewSigner().Sign(h.Set, "order-1", now, []byte(body), []string{testSecret}); err != nil {
			t.Fatal(err)
		}
		return h
	}
	tests := []struct {
		header        http.Header
		wantStatus    int
		wantSignature string
		why           string
	}{
		{signed(time.Now(), body), http.StatusOK, "ok", "from the platform"},
		{webhookHeader(), http.StatusUnauthorized, sign.ErrNoSignature.Error(), "from anybody"},
		{signed(time.Now(), body+" "), http.StatusUnauthorized, sign.ErrMismatch.Error(), "changed on the way"},
		{signed(time.Now().Add(-time.Hour), body), http.StatusUnauthorized, sign.ErrTimestamp.Error(), "recorded an hour ago"},
	}
	l := startListen(t, "--secret-file", file, "--json")
	for _, test := range tests {
		status, answer := l.post(t, test.header, body)
		var got received
		if err := json.Unmarshal(l.lines.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v in %q", test.why, err, l.lines.Text())
		}
		if status != test.wantStatus || got.Status != test.wantStatus || !strings.HasPrefix(got.Signature, test.wantSignature) {
			t.Errorf("%s: answered %d, said %+v; want %d and signature %q", test.why, status, got, test.wantStatus, test.wantSignature)
		}
		if success := strings.Contains(answer, `"success":true`); success != (test.wantStatus == http.StatusOK) {
			t.Errorf("%s: answer %s", test.why, answer)
		}
		if got.ID != "order-1" || got.App != "quiz" || got.Capability != "analytics" || got.Attempt != 2 || got.Body != body ||
			got.Method != http.MethodPost || got.Path != "/api/analytics" {
			t.Errorf("%s: said %+v", test.why, got)
		}
	}
	if err := l.stop(); err != nil {
		t.Errorf("it ended with %v, want success after Ctrl-C", err)
	}
}

func TestListenText(t *testing.T) {
	l := startListen(t, "--status", "503")
	status, answer := l.post(t, webhookHeader(), "{\"a\":\x1b 1}")
	line := l.lines.Text()
	if status != http.StatusServiceUnavailable || !strings.Contains(answer, `"success":false`) {
		t.Errorf("answered %d %s", status, answer)
	}
	want := "POST /api/analytics  analytics for quiz, attempt 2, id order-1, signature unchecked, answered 503"
	if !strings.HasSuffix(line, want) {
		t.Errorf("printed %q, want …%q", line, want)
	}
}

// A delay that is longer than anybody waits must not hold up Ctrl-C.
func TestListenStopsInDelay(t *testing.T) {
	l := startListen(t, "--delay", "1h", "--json")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		resp, err := (&http.Client{}).Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		failed <- err
	}()
	if !l.lines.Scan() { // it has arrived
		t.Fatal("it printed nothing")
	}
	if err := l.stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("the webhook was answered before its delay was over")
	}
}

func TestListenRefuses(t *testing.T) {
	tests := []struct {
		args []string
		code int
		why  string
	}{
		{[]string{"--addr", "9000"}, exitUsage, "no host"},
		{[]string{"--status", "99"}, exitUsage, "no HTTP status"},
		{[]string{"--delay", "-1s"}, exitUsage, "back in time"},
		{[]string{"--secret-file", "/nowhere"}, exitFailed, "no file"},
		{[]string{"--secret-file", "-"}, exitFailed, "nothing in it"},
		{[]string{"now"}, exitUsage, "no arguments"},
	}
	for _, test := range tests {
		root := newRoot(strings.NewReader(""), io.Discard, io.Discard)
		root.SetArgs(append([]string{"listen"}, test.args...))
		if err := root.ExecuteContext(t.Context()); exitCode(err) != test.code {
			t.Errorf("%v (%s): got %v, want exit code %d", test.args, test.why, err, test.code)
		}
	}
}
