package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/streams/logtest"
)

// canaries are what must show up nowhere, by what they are.
type canaries map[string][]byte

// secret adds an app's secret, in every form that it takes on the way.
func (c canaries) secret(t *testing.T, what, secret string) {
	t.Helper()
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil {
		t.Fatalf("%s is no secret", what)
	}
	c[what], c[what+", its bytes"], c[what+", in hex"] = []byte(encoded), raw, []byte(hex.EncodeToString(raw))
	c[what+", its text in base64"] = []byte(base64.StdEncoding.EncodeToString([]byte(secret)))[:40]
}

// scan reports every canary in the text.
func (c canaries) scan(t *testing.T, where string, text []byte) {
	t.Helper()
	for what, canary := range c {
		if at := bytes.Index(text, canary); at >= 0 {
			t.Errorf("%s holds %s: …%q", where, what, text[max(at-60, 0):at])
		}
	}
}

// process runs backstop with the settings, as a process of its own.
type process struct {
	*testing.T
	ctx context.Context
	env []string
}

func (p process) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.ctx, "backstop", args...)
	cmd.Env = append(os.Environ(), p.env...)
	return cmd
}

// run returns the two outputs of a command, which has to end with the code.
func (p process) run(code int, args ...string) (out, said []byte) {
	p.Helper()
	cmd := p.command(args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		p.Errorf("backstop %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, o.Bytes(), e.Bytes())
	}
	return o.Bytes(), e.Bytes()
}

// everything records all messages of the broker.
type everything struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (e *everything) add(m *nats.Msg) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fmt.Fprintf(&e.all, "%s %s %v ", m.Subject, m.Reply, m.Header)
	e.all.Write(m.Data)
	e.all.WriteByte('\n')
}

func (e *everything) bytes() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return bytes.Clone(e.all.Bytes())
}

// What is secret is nowhere but where it belongs: a process is run through all
// that it does, and its log, its answers, every message of its broker, its
// disk and its crash dump are searched.
func TestSecretsShowUpNowhere(t *testing.T) {
	cleanEnvironment(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/fail":
			http.Error(w, "no", http.StatusInternalServerError)
		case "/reject":
			http.Error(w, "never", http.StatusUnprocessableEntity)
		case "/reset":
			panic(http.ErrAbortHandler)
		}
	}))
	defer app.Close()

	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	natsAddr, httpAddr := freePort(t), freePort(t)
	hidden := canaries{
		"the NATS token":    []byte("canary-of-the-nats-token-8c1f"),
		"the admin token":   []byte("canary-of-the-admin-token-77ab"),
		"the NATS password": []byte("canary-of-the-nats-password-19de"),
		"the URL’s":         []byte("canary-of-the-url-password-42c0"),
	}
	p := process{t, ctx, []string{
		"BACKSTOP_NATS_ADDR=" + natsAddr, "BACKSTOP_HTTP_ADDR=" + httpAddr, "BACKSTOP_DATA_DIR=" + data, "BACKSTOP_SYNC=1s",
		"BACKSTOP_ALLOWED_NETWORKS=127.0.0.0/8", "BACKSTOP_LOG_LEVEL=debug", "GOTRACEBACK=all",
		"BACKSTOP_NATS_TOKEN=" + string(hidden["the NATS token"]), "BACKSTOP_ADMIN_TOKEN=" + string(hidden["the admin token"]),
	}}
	serve := p.command("serve")
	log := new(logtest.Buffer)
	serve.Stdout, serve.Stderr = log, log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- serve.Wait() }()
	base := "http://" + httpAddr
	p.await("ready", func() bool { status, _ := p.get(base+"/readyz", ""); return status == http.StatusOK })

	nc, err := nats.Connect("nats://"+natsAddr, nats.Token(string(hidden["the NATS token"])))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var heard everything
	for _, subject := range []string{">", "$JS.>", "$KV.>", "_INBOX.>"} {
		if _, err := nc.Subscribe(subject, heard.add); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}

	said := p.exercise(app.URL, dir, hidden)
	for _, target := range []string{"/metrics", "/healthz", "/readyz", "/", "/callbacks/x"} {
		for _, token := range []string{"", "wrong", string(hidden["the admin token"])} {
			status, body := p.get(base+target, token)
			hidden.scan(t, fmt.Sprintf("the answer %d to %s", status, target), body)
		}
	}
	// A NATS that refuses the login, told by a command and by serve.
	outside := process{t, ctx, []string{
		"NATS_URL=nats://ann:" + string(hidden["the URL’s"]) + "@" + natsAddr, "NATS_USER=ann", "NATS_PASSWORD=" + string(hidden["the NATS password"]),
		"BACKSTOP_HTTP_ADDR=127.0.0.1:0", "BACKSTOP_DATA_DIR=" + filepath.Join(dir, "other"), "BACKSTOP_LOG_LEVEL=debug", "GOTRACEBACK=all",
	}}
	for _, args := range [][]string{{"status"}, {"apps", "list"}, {"help", "settings"}} {
		out, errs := outside.run(map[bool]int{true: 0, false: 1}[args[0] == "help"], args...)
		said = append(append(said, out...), errs...)
	}
	waiting := outside.command("serve")
	waitingLog := new(logtest.Buffer)
	waiting.Stderr = waitingLog
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	p.await("serve to wait for its NATS", func() bool { return strings.Contains(waitingLog.String(), "can't be reached yet") })
	crash(t, waiting)
	_ = waiting.Wait()
	crash(t, serve)
	if err := <-exited; err == nil {
		t.Error("a process that was crashed ended well")
	}

	// What must be there, so that the search is known to find something.
	disk, onDisk := readStore(t, data)
	for where, text := range map[string]string{"the log": log.String(), "the other log": waitingLog.String()} {
		if !strings.Contains(text, "SIGQUIT") || !strings.Contains(text, "goroutine ") {
			t.Errorf("%s has no crash dump:\n%s", where, text)
		}
	}
	messages := heard.bytes()
	for where, text := range map[string][]byte{"the messages": messages, "the disk": disk} {
		for _, mark := range []string{"mark-of-a-payload", "canary-of-a-header"} {
			if !bytes.Contains(text, []byte(mark)) {
				t.Errorf("%s: no %s in %d bytes; the search proves nothing", where, mark, len(text))
			}
		}
	}
	for file, text := range onDisk {
		hidden.scan(t, file, text)
	}
	hidden.scan(t, "the messages", messages)
	// Headers that a manifest sets stand in the manifest, and are as secret.
	hidden["a header of the manifest"] = []byte("canary-of-a-header-5d5d")
	for where, text := range map[string][]byte{"the log": []byte(log.String()), "the other log": []byte(waitingLog.String()), "what the commands said": said} {
		hidden.scan(t, where, text)
	}
	for line := range bytes.SplitSeq(messages, []byte("\n")) {
		for _, kind := range []string{"dlq.", "attempts.", "notices.", "lanes.", "events."} {
			if bytes.HasPrefix(line, []byte(kind)) {
				hidden.scan(t, "a message on "+kind+">", line)
			}
		}
	}
	t.Logf("searched %d bytes of log, %d of messages, %d on disk", len(log.String()), len(messages), len(disk))
}

// exercise does what there is to do, adds the secrets that it is told, and
// returns everything else that the commands said.
func (p process) exercise(app, dir string, hidden canaries) (said []byte) {
	p.Helper()
	chosen := "whsec_" + base64.StdEncoding.EncodeToString([]byte("canary-of-a-chosen-secret-32byte"))
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte(chosen+"\n"), 0o600); err != nil {
		p.Fatal(err)
	}
	hidden.secret(p.T, "the chosen secret", chosen)
	for _, kind := range []string{"ok", "fail", "reject", "reset"} {
		manifest := filepath.Join(dir, kind+".json")
		text := fmt.Sprintf(`{"appId":%q,"baseUrl":%q,"webhooks":{"analytics":{"path":%q,"async":true,"headers":{"Authorization":"Bearer canary-of-a-header-5d5d"},
			"retry":{"maxAttempts":2,"initialDelay":10,"maxDelay":20},"breaker":{"failureThreshold":1,"recoveryTimeout":100,"successThreshold":1}}}}`, kind, app, "/"+kind)
		if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
			p.Fatal(err)
		}
		args := []string{"apps", "apply", "--json", manifest}
		if kind == "reset" {
			args = append(args, "--secret-file", file)
		}
		out, errs := p.run(0, args...)
		said = append(said, errs...)
		if kind == "reset" {
			said = append(said, out...) // it was given, and isn't repeated
			continue
		}
		p.told(hidden, "the secret of "+kind, out)
	}
	out, errs := p.run(0, "apps", "rotate-secret", "ok", "--json")
	p.told(hidden, "the rotated secret", out)
	said = append(said, errs...)
	for _, kind := range []string{"ok", "fail", "reject", "reset", "nobody"} {
		p.run(0, "publish", "analytics", kind, "--id", "event-"+kind, `{"mark":"mark-of-a-payload"}`)
	}
	p.await("four dead letters", func() bool {
		out, _ := p.run(0, "dlq", "list", "--json")
		said = append(said, out...)
		for _, kind := range []string{"fail", "reject", "reset", "nobody"} {
			if !bytes.Contains(out, []byte("event-"+kind)) {
				return false
			}
		}
		return true
	})
	for _, args := range [][]string{
		{"dlq", "replay", "--app", "reject", "--force"},
		{"dlq", "discard", "--app", "nobody", "--force"},
		{"apps", "disable", "fail", "analytics"},
		{"apps", "enable", "fail", "analytics"},
		{"apps", "list", "--json"},
		{"breakers", "list", "--json"},
		{"status", "--json"},
		{"status"},
		{"apps", "remove", "fail", "--force"},
	} {
		out, errs := p.run(0, args...)
		said = append(append(said, out...), errs...)
	}
	return said
}

// told takes the one secret out of what a command printed.
func (p process) told(hidden canaries, what string, out []byte) {
	p.Helper()
	var answer struct{ Secret string }
	if err := json.Unmarshal(out, &answer); err != nil || strings.Count(string(out), "whsec_") != 1 {
		var list []struct{ Secret string }
		if json.Unmarshal(out, &list) != nil || len(list) != 1 {
			p.Fatalf("%s was not printed once: %v in %s", what, err, out)
		}
		answer = list[0]
	}
	hidden.secret(p.T, what, answer.Secret)
}

func (p process) await(what string, holds func() bool) {
	p.Helper()
	for !holds() {
		select {
		case <-p.ctx.Done():
			p.Fatalf("gave up waiting for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p process) get(url, token string) (int, []byte) {
	p.Helper()
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		p.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, body
}

// crash makes the process dump every goroutine and end, as a panic does.
func crash(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Error(err)
	}
}

// readStore returns all files under a directory, but for the key file, and
// each of them by its name.
func readStore(t *testing.T, dir string) (all []byte, files map[string][]byte) {
	t.Helper()
	files = map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == "secrets.key" {
			return err
		}
		text, err := os.ReadFile(path)
		files[path] = text
		all = append(all, text...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, files
}
