package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"backstop/cmd/backstop/admin"
	"backstop/cmd/backstop/ops"
	"backstop/cmd/backstop/ops/opstest"
	"backstop/embedded/natstest"
	"backstop/streams"
)

// bundle is the API over a NATS as `serve` makes it. Every answer is checked
// against the OpenAPI document.
type bundle struct {
	*testing.T
	js      jetstream.JetStream
	srv     *admin.Server
	url     string
	client  *http.Client
	backend *atomic.Pointer[admin.Backend]
	ahead   *atomic.Int64 // how far the server's clocks are ahead
}

// start runs the API with the settings, on a free port of loopback.
func start(t *testing.T, cfg admin.Config) *bundle {
	t.Helper()
	js := natstest.Start(t).JetStream()
	opstest.Prepare(t, js, "127.0.0.0/8", "analytics")
	b := listen(t, cfg)
	b.js = js
	b.backend.Store(&admin.Backend{Ops: ops.New(ops.Config{JetStream: js, Warn: func(text string) { t.Error(text) }})})
	return b
}

// listen runs the server alone, before NATS is reached.
func listen(t *testing.T, cfg admin.Config) *bundle {
	t.Helper()
	fine := func() error { return nil }
	cfg.Addr, cfg.Metrics, cfg.Healthy, cfg.Ready = "127.0.0.1:0", prometheus.NewRegistry(), fine, fine
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	backend := &atomic.Pointer[admin.Backend]{}
	cfg.Backend = backend.Load
	srv, err := admin.Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ahead := &atomic.Int64{}
	srv.SetClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	client := &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &bundle{T: t, srv: srv, url: srv.URL(), client: client, backend: backend, ahead: ahead}
}

func (b *bundle) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// decode reads the body into v.
func (a answer) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

// code is that of a problem.
func (a answer) code() string {
	var p struct{ Code string }
	_ = json.Unmarshal([]byte(a.body), &p)
	return p.Code
}

// do makes a request. Headers are given as "Name: value"; Host is one of them.
func (b *bundle) do(method, path, body string, headers ...string) answer {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, b.url+path, strings.NewReader(body))
	b.must(err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			req.Host = value
		} else {
			req.Header.Set(name, value)
		}
	}
	resp, err := b.client.Do(req)
	b.must(err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	b.must(err)
	a := answer{resp.StatusCode, resp.Header, string(data)}
	document(b.T).check(b.T, method, path, a)
	return a
}

// want makes a request and fails the test if it has another status, or of a
// problem another code.
func (b *bundle) want(status int, code, method, path, body string, headers ...string) answer {
	b.Helper()
	a := b.do(method, path, body, headers...)
	if a.status != status || code != "" && a.code() != code {
		b.Errorf("%s %s %s %v = %d %s, want %d %s", method, path, body, headers, a.status, a.body, status, code)
	}
	return a
}

// letter stores a dead letter of quiz.
func (b *bundle) letter(id, capability string, reason streams.DeadLetterReason, payload string) {
	b.Helper()
	b.must(b.backend.Load().Ops.DeadLetters().Store(b.Context(), streams.DeadLetter{
		Event: streams.Event{
			ID: id, Origin: id + capability, EndpointID: streams.EndpointID{Capability: capability, App: "quiz"},
			Payload: []byte(payload), PublishedAt: time.Now(), Attempts: 3,
		},
		Reason: reason, Err: "503 <script>", Status: 503, FailedAt: time.Now(),
	}))
}

// notice publishes one.
func (b *bundle) notice(kind streams.NoticeKind, message string) {
	b.Helper()
	msg, err := streams.Notice{Kind: kind, App: "quiz", Capability: "analytics", Time: time.Now().UTC(), Message: message}.Msg()
	b.must(err)
	_, err = b.js.PublishMsg(b.Context(), msg)
	b.must(err)
}

// recorded returns what the audit holds, oldest first.
func (b *bundle) recorded() string {
	b.Helper()
	stream, err := b.js.Stream(b.Context(), streams.AuditStream)
	b.must(err)
	var all strings.Builder
	for sequence := uint64(1); sequence <= stream.CachedInfo().State.LastSeq; sequence++ {
		msg, err := stream.GetMsg(b.Context(), sequence)
		b.must(err)
		all.Write(append(msg.Data, '\n'))
	}
	return all.String()
}

const quizManifest = `{"appId":"quiz","name":"Quiz","baseUrl":"https://quiz.example.com","webhooks":{"analytics":{"path":"/a"},"quizAnswer":{"path":"/q"}}}`

// spec is the OpenAPI document, for checking answers.
type spec struct {
	doc   map[string]any
	paths map[string]map[string]any
}

func document(t *testing.T) spec {
	t.Helper()
	s := spec{paths: make(map[string]map[string]any)}
	if err := json.Unmarshal(admin.OpenAPI(), &s.doc); err != nil {
		t.Fatal(err)
	}
	for path, item := range s.doc["paths"].(map[string]any) {
		s.paths[path] = item.(map[string]any)
	}
	return s
}

// resolve follows a reference, if that is what it is given.
func (s spec) resolve(v map[string]any) map[string]any {
	to, isRef := v["$ref"].(string)
	if !isRef {
		return v
	}
	at := s.doc
	for part := range strings.SplitSeq(strings.TrimPrefix(to, "#/"), "/") {
		at = at[part].(map[string]any)
	}
	return at
}

// template returns the path of the document that a request's path matches.
func (s spec) template(path string) string {
	path, _, _ = strings.Cut(path, "?")
	if _, exact := s.paths[path]; exact {
		return path
	}
	parts := strings.Split(path, "/")
	for template := range s.paths {
		names := strings.Split(template, "/")
		match := len(names) == len(parts)
		for i := range names {
			match = match && (strings.HasPrefix(names[i], "{") || names[i] == parts[i])
		}
		if match {
			return template
		}
	}
	return ""
}

// check compares an answer with what the document says of it.
func (s spec) check(t *testing.T, method, path string, a answer) {
	t.Helper()
	template := s.template(path)
	operation, ok := s.paths[template][strings.ToLower(method)].(map[string]any)
	if !ok {
		return // an answer about what isn't there
	}
	responses := operation["responses"].(map[string]any)
	name := strconv.Itoa(a.status)
	if _, listed := responses[name]; !listed {
		if a.status < 400 {
			t.Errorf("%s %s answers %d, which the document doesn't list", method, template, a.status)
		}
		name = "default"
	}
	at := "/paths/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(template) + "/" + strings.ToLower(method) + "/responses/" + name
	response := responses[name].(map[string]any)
	if to, isRef := response["$ref"].(string); isRef {
		at = strings.TrimPrefix(to, "#")
		response = s.resolve(response)
	}
	content, _ := response["content"].(map[string]any)
	mediaType, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	switch {
	case a.body == "":
		return
	case content[mediaType] == nil:
		t.Errorf("%s %s answers %d with %q, which the document doesn't list", method, template, a.status, mediaType)
		return
	case mediaType != "application/json" && mediaType != "application/problem+json":
		return
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("openapi.json", s.doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("openapi.json#" + at + "/content/" + strings.ReplaceAll(mediaType, "/", "~1") + "/schema")
	if err != nil {
		t.Fatalf("schema of %s %s %d: %v", method, template, a.status, err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(a.body)))
	if err != nil {
		t.Errorf("%s %s: %v in %s", method, path, err, a.body)
		return
	}
	if err := schema.Validate(value); err != nil {
		t.Errorf("%s %s answers %d %s\nagainst its schema: %v", method, path, a.status, a.body, err)
	}
}
