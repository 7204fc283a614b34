package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/logtest"
	"backstop/streams/manifest"
	"backstop/streams/secrets"
)

// TestCallbackToAPipeline: an app that is sent an event by `serve` answers to
// the URL that came with it, and the result is there to be read; and nothing of
// that URL is logged.
func TestCallbackToAPipeline(t *testing.T) {
	var log logtest.Buffer
	where, stop := startServe(t, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	urls, answers := make(chan string, 1), make(chan int, 1)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		url := r.Header.Get("X-Callback-URL")
		urls <- url
		w.WriteHeader(http.StatusAccepted)
		req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), http.MethodPost, url, strings.NewReader(`{"rows": 17}`))
		if err != nil {
			answers <- 0
			return
		}
		resp, err := (&http.Client{}).Do(req)
		if err != nil {
			answers <- 0
			return
		}
		defer resp.Body.Close()
		answers <- resp.StatusCode
	}))
	defer app.Close()

	nc, err := nats.Connect(where.NATS)
	fatal(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	fatal(t, err)
	result, err := nc.SubscribeSync("results.report.quiz")
	fatal(t, err)
	sealed, err := js.KeyValue(t.Context(), streams.SecretsBucket)
	fatal(t, err)
	fatal(t, secrets.NewStore(sealed).Create(t.Context(), "quiz", secrets.Generate()))
	apps, err := js.KeyValue(t.Context(), streams.AppsBucket)
	fatal(t, err)
	declared, err := json.Marshal(map[string]any{
		"appId": "quiz", "baseUrl": app.URL,
		"webhooks": map[string]any{"report": map[string]any{"path": "/report", "callback": map[string]any{"within": 60_000}}},
	})
	fatal(t, err)
	m, err := manifest.Parse(declared, manifest.Options{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	fatal(t, err)
	_, _, err = manifest.NewStore(apps, slog.New(slog.DiscardHandler)).Put(t.Context(), m, nil)
	fatal(t, err)

	patience, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	publisher := streams.NewPublisher(js)
	for { // until the capability's stream is made
		_, err := publisher.Publish(patience, streams.EndpointID{Capability: "report", App: "quiz"}, "id-1", []byte(`{}`))
		if err == nil {
			break
		}
		select {
		case <-patience.Done():
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	msg, err := result.NextMsgWithContext(patience)
	fatal(t, err)
	r, err := streams.DecodeResult(msg.Subject, msg.Header, msg.Data)
	if err != nil || r.ID != "id-1" || r.Kind != streams.ResultCallback || string(r.Payload) != `{"rows": 17}` {
		t.Errorf("%+v %v", r, err)
	}
	url := <-urls
	if status := <-answers; status != http.StatusOK || !strings.HasPrefix(url, where.HTTP+"/callbacks/") {
		t.Errorf("%s answered %d", url, status)
	}
	stop()
	if strings.Contains(log.String(), "/callbacks/") || strings.Contains(log.String(), url[len(where.HTTP+"/callbacks/"):]) {
		t.Errorf("the log has the callback URL:\n%s", log.String())
	}
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startServe runs the pipeline in this process until stop is called, or the
// test ends.
func startServe(t *testing.T, log *slog.Logger) (where running, stop func()) {
	t.Helper()
	dir := t.TempDir()
	cfg := defaultConfig()
	cfg.DataDir, cfg.SecretsKeyFile, cfg.ReplicaName = dir, dir+"/secrets.key", "r1"
	cfg.EmbeddedAddr, cfg.HTTPAddr, cfg.Sync, cfg.StoreMax = "127.0.0.1:0", "127.0.0.1:0", "1s", 1<<30
	cfg.AllowedNetworks = networks{netip.MustParsePrefix("127.0.0.0/8")}
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan running, 1), make(chan error, 1)
	go func() { ended <- serve(ctx, cfg, log, func(r running) { started <- r }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case where = <-started:
	case err := <-ended:
		ended <- err
		t.Fatalf("serve: %v", err)
	}
	return where, stop
}
