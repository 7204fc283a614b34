package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/streams"
)

// apiClient asks a running pipeline with its admin token.
type apiClient struct {
	*testing.T
	url  string
	http *http.Client
}

const apiToken = "a-token-of-32-random-bytes-or-so"

// serveWithAPI runs the pipeline until the test ends.
func serveWithAPI(t *testing.T) (running, apiClient) {
	t.Helper()
	dir := t.TempDir()
	cfg := defaultConfig()
	cfg.DataDir, cfg.SecretsKeyFile, cfg.ReplicaName = dir, dir+"/secrets.key", "r1"
	cfg.EmbeddedAddr, cfg.HTTPAddr, cfg.Sync, cfg.StoreMax = "127.0.0.1:0", "127.0.0.1:0", "1s", 1<<30
	cfg.AllowedNetworks, cfg.AdminToken = networks{netip.MustParsePrefix("127.0.0.0/8")}, apiToken
	where := runServe(t, cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	c := apiClient{t, where.HTTP, &http.Client{}}
	t.Cleanup(c.http.CloseIdleConnections)
	return where, c
}

// do asks, wants the status, and reads the answer into v unless that is nil.
func (c apiClient) do(status int, method, path, body string, v any) {
	c.Helper()
	answer := c.fetch(status, method, "/api/v1/"+path, body)
	if v != nil {
		fatal(c.T, json.Unmarshal(answer, v))
	}
}

// fetch asks anything of the HTTP side, wants the status, and returns the answer.
func (c apiClient) fetch(status int, method, path, body string) []byte {
	c.Helper()
	req, err := http.NewRequestWithContext(c.Context(), method, c.url+path, strings.NewReader(body))
	fatal(c.T, err)
	req.Header.Set("Authorization", "Bearer "+apiToken)
	resp, err := c.http.Do(req)
	fatal(c.T, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	fatal(c.T, err)
	if resp.StatusCode != status {
		c.Fatalf("%s %s = %d %s, want %d", method, path, resp.StatusCode, answer, status)
	}
	return answer
}

// until asks again until ok says that the answer is as it should be.
func (c apiClient) until(what, path string, ok func(body string) bool) {
	c.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		var body json.RawMessage
		c.do(http.StatusOK, http.MethodGet, path, "", &body)
		if ok(string(body)) {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("gave up waiting until %s: %s", what, body)
		}
	}
}

// TestAPIToAPipeline: what an operator does by the API alone has its effect on
// the pipeline, and is told to whoever listens.
func TestAPIToAPipeline(t *testing.T) {
	where, c := serveWithAPI(t)

	var down atomic.Bool
	var arrived sync.Map // path and id of what the app got
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		arrived.Store(r.URL.Path+" "+r.Header.Get("X-Request-Id"), true)
		_, _ = io.WriteString(w, `{"success":true,"data":{}}`)
	}))
	defer app.Close()
	got := func(what string) bool {
		_, ok := arrived.Load(what)
		return ok
	}

	stream := c.listen()
	c.do(http.StatusCreated, http.MethodPut, "apps/quiz", fmt.Sprintf(`{"appId":"quiz","baseUrl":%q,"webhooks":{
		"report":{"path":"/report","async":true},"participantRegistration":{"path":"/registration"}}}`, app.URL), nil)
	c.until("the capability has its stream", "overview", func(body string) bool { return strings.Contains(body, `"capability":"report","backlog"`) })

	// Disabled: an event becomes a dead letter, which is replayed once the
	// endpoint is on again.
	c.do(http.StatusOK, http.MethodPost, "apps/quiz/disable", `{"reason":"moves house"}`, nil)
	if n := stream(); n.Kind != streams.NoticeEndpointDisabled || !strings.Contains(n.Message, "moves house") {
		t.Errorf("the stream says %+v", n)
	}
	nc, err := nats.Connect(where.NATS)
	fatal(t, err)
	defer nc.Close()
	var dead struct{ Items []struct{ ID string } }
	sent := 0
	c.until("an event is a dead letter", "dlq?reason=endpoint_disabled", func(body string) bool {
		fatal(t, json.Unmarshal([]byte(body), &dead))
		if sent++; len(dead.Items) == 0 { // what comes before the pipeline has heard of it is delivered
			id := fmt.Sprintf("e%d", sent)
			fatal(t, nc.PublishMsg(&nats.Msg{Subject: "events.report.quiz", Header: nats.Header{"Nats-Msg-Id": {id}}, Data: []byte(`{"n": 1}`)}))
		}
		return len(dead.Items) > 0
	})
	c.do(http.StatusOK, http.MethodPost, "apps/quiz/enable", "", nil)
	c.until("it is delivered", "dlq", func(body string) bool {
		if strings.Contains(body, `"id"`) { // also what is given up once more, before the pipeline has heard of it
			c.do(http.StatusOK, http.MethodPost, "dlq/replay", `{"app":"quiz","rate":1000}`, nil)
		}
		return got("/report " + dead.Items[0].ID)
	})

	// A call that waits for a person is approved, and reaches the app.
	down.Store(true)
	reply, err := nc.RequestMsg(&nats.Msg{Subject: "calls.participantRegistration.quiz", Header: nats.Header{"Nats-Msg-Id": {"c1"}}, Data: []byte(`{}`)}, time.Minute)
	fatal(t, err)
	if !strings.Contains(string(reply.Data), `"source":"pending"`) {
		t.Fatalf("the call was answered %s", reply.Data)
	}
	down.Store(false)
	var call streams.PendingRequest
	c.do(http.StatusOK, http.MethodPost, "pending/c1/approve", `{"reason":"a regular"}`, &call)
	if call.State != streams.PendingApproved || call.DecidedBy != "admin" {
		t.Errorf("approved: %+v", call)
	}
	c.until("it is delivered", "overview", func(string) bool { return got("/registration c1") })
	c.until("all of it is on record", "audit", func(body string) bool { return strings.Count(body, `"via":"api"`) >= 7 }) // two endpoints, off and on
	c.until("the attempts are in the log", "attempts?id=c1", func(body string) bool { return strings.Contains(body, `"verdict":"delivered"`) })
	c.until("the attempts are added up", "overview", func(body string) bool { return !strings.Contains(body, `"succeeded":0`) })
}

// listen opens the stream of notices, and returns what waits for the next.
func (c apiClient) listen() func() streams.Notice {
	c.Helper()
	req, err := http.NewRequestWithContext(c.Context(), http.MethodGet, c.url+"/api/v1/stream", nil)
	fatal(c.T, err)
	req.Header.Set("Authorization", "Bearer "+apiToken)
	resp, err := c.http.Do(req)
	fatal(c.T, err)
	c.Cleanup(func() { _ = resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	return func() (n streams.Notice) {
		c.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				fatal(c.T, json.Unmarshal([]byte(data), &n))
				return n
			}
		}
		c.Fatalf("the stream ended: %v", lines.Err())
		return n
	}
}
