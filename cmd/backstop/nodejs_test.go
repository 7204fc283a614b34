//go:build e2e

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// nodePage is where the code for services in JavaScript is.
const nodePage = "../../docs/other-languages.md"

// The code on the page for other languages, run by Node.js as it stands.
func TestE2ENodeClientOfThePage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := nodeDir(t)
	execute(ctx, t, dir, nil, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")

	srv := natstest.Start(t, natstest.Listen())
	js := srv.JetStream()
	if err := streams.NewTopology(js, streams.Settings{StoreBytes: 1 << 30}).EnsureCapability(ctx, "analytics"); err != nil {
		t.Fatal(err)
	}
	answerCalls(t, srv.Conn())
	t.Log(execute(ctx, t, dir, []string{"NATS_URL=" + srv.URL()}, "node", "--test"))

	consumer, err := js.Consumer(ctx, streams.EventStream("analytics"), streams.EventConsumer)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ id, payload string }{
		{"order-1042", `{"event":"quiz_completed"}`},
		{"from-node", `{"event":"näme"}`},
		{"outlived", `{}`},
	} {
		msg, err := consumer.Next()
		if err != nil {
			t.Fatal(err)
		}
		event, err := streams.Decode(msg)
		if err != nil || event.ID != want.id || string(event.Payload) != want.payload || event.App != "quiz" {
			t.Errorf("stored was %s, %s for %s (%v); want %s, %s", event.ID, event.Payload, event.App, err, want.id, want.payload)
		}
	}
}

// The program on the page, against `serve` and an app.
func TestE2ENodeProgramOfThePage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := nodeDir(t)
	execute(ctx, t, dir, nil, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")

	type visit struct{ path, id, body string }
	visits := make(chan visit, 10)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		visits <- visit{r.URL.Path, r.Header.Get("X-Request-Id"), string(body)}
		_, _ = io.WriteString(w, `{"success":true,"data":{"correct":true}}`)
	}))
	t.Cleanup(app.Close)
	t.Setenv("NATS_URL", "")
	t.Setenv("BACKSTOP_DATA_DIR", t.TempDir())
	t.Setenv("BACKSTOP_NATS_ADDR", freePort(t))
	t.Setenv("BACKSTOP_HTTP_ADDR", "127.0.0.1:0")
	t.Setenv("BACKSTOP_ALLOWED_NETWORKS", "127.0.0.0/8")
	at := serveInTest(t)
	root := newRoot(strings.NewReader(`{"appId":"quiz","name":"Quiz","baseUrl":"`+app.URL+`","webhooks":{
		"analytics":{"path":"/analytics","async":true},"quizAnswer":{"path":"/answer"}}}`), t.Output(), t.Output())
	root.SetArgs([]string{"apps", "apply", "-"})
	if err := root.ExecuteContext(ctx); err != nil {
		t.Fatal(err)
	}

	got := execute(ctx, t, dir, []string{"NATS_URL=" + at.NATS}, "node", "quiz.mjs")
	want, err := os.ReadFile(filepath.Join(dir, "quiz.txt"))
	if err != nil || got != string(want) {
		t.Errorf("the program printed\n%swant\n%s(%v)", got, want, err)
	}
	seen := map[string]visit{}
	for range 2 {
		select {
		case v := <-visits:
			seen[v.path] = v
		case <-ctx.Done():
			t.Fatalf("the app was visited only so: %v", seen)
		}
	}
	if v := seen["/analytics"]; v.id != "order-1042" || v.body != `{"event":"quiz_completed"}` {
		t.Errorf("the event arrived as %+v", v)
	}
	if v := seen["/answer"]; v.body != `{"quizId":"q1","answer":"B"}` {
		t.Errorf("the call arrived as %+v", v)
	}
}

// nodeDir returns a directory with the tests of testdata/nodejs, and beside
// them the code and the output from the page.
func nodeDir(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("CI needs Node.js: %v", err)
			}
			t.Skipf("this test needs Node.js: %v", err)
		}
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../testdata/nodejs")); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(nodePage)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, block := range regexp.MustCompile("(?ms)^```js\n// (\\w+\\.mjs)\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		files[block[1]] = block[2]
	}
	for _, block := range regexp.MustCompile("(?ms)^```text\n(.*?)^```$").FindAllStringSubmatch(string(page), -1) {
		files["quiz.txt"] = block[1]
	}
	if blocks := strings.Count(string(page), "\n```js\n"); len(files) != blocks+1 || blocks == 0 {
		t.Fatalf("%s has %d blocks of JavaScript and an output, but %d files were found in it", nodePage, blocks, len(files))
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// execute runs a command in dir and returns what it printed.
func execute(ctx context.Context, t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// answerCalls stands in for Backstop's responder, with its replies.
func answerCalls(t *testing.T, nc *nats.Conn) {
	t.Helper()
	for subject, reply := range map[string]func(*nats.Msg) string{
		"calls.quizAnswer.quiz": func(*nats.Msg) string {
			return `{"success":true,"data":{"correct":true},"source":"app","requestId":"r","durationMs":41}`
		},
		"calls.quizAnswer.shop": func(*nats.Msg) string {
			return `{"success":false,"error":{"code":"app_unavailable","message":"The app does not answer."},"source":"none","reason":"circuit_open","requestId":"r","durationMs":0}`
		},
		"calls.echo.quiz": func(msg *nats.Msg) string {
			return fmt.Sprintf(`{"success":true,"data":{"payload":%s,"timeoutMs":%q},"source":"app","requestId":%q,"durationMs":1}`,
				msg.Data, msg.Header.Get(streams.HeaderTimeoutMs), msg.Header.Get(streams.HeaderMsgID))
		},
		"calls.silent.quiz": nil,
	} {
		_, err := nc.Subscribe(subject, func(msg *nats.Msg) {
			if reply != nil {
				_ = msg.Respond([]byte(reply(msg)))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}
