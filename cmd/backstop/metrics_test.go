package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"backstop/cmd/backstop/metrics"
	"backstop/cmd/backstop/ops"
	"backstop/embedded/natstest"
	"backstop/streams"
)

// scrape reads /metrics as Prometheus does.
func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	return scrapeWith(t, url, "")
}

// scrapeWith is scrape where a token is asked for.
func scrapeWith(t *testing.T, url, token string) map[string]*dto.MetricFamily {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	web := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// series returns the values of a metric by its labels, as "app=quiz,reason=".
func series(f *dto.MetricFamily) map[string]float64 {
	all := make(map[string]float64)
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		all[strings.Join(labels, ",")] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return all
}

// What a running pipeline shows is what its apps saw, and what the page says.
func TestMetricsOfARunningPipeline(t *testing.T) {
	cleanEnvironment(t)
	t.Setenv("BACKSTOP_DATA_DIR", t.TempDir())
	t.Setenv("BACKSTOP_NATS_ADDR", "127.0.0.1:0")
	t.Setenv("BACKSTOP_HTTP_ADDR", "127.0.0.1:0")
	t.Setenv("BACKSTOP_ALLOWED_NETWORKS", "127.0.0.0/8")
	t.Setenv("BACKSTOP_SYNC", "1h")
	at := serveInTest(t)
	t.Setenv("NATS_URL", at.NATS)

	var seen [3]atomic.Int64
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := map[string]int{"/fine": 200, "/rejects": 422, "/fails": 503}[r.URL.Path]
		seen[map[int]int{200: 0, 422: 1, 503: 2}[status]].Add(1)
		w.WriteHeader(status)
	}))
	defer app.Close()
	for _, name := range []string{"fine", "rejects", "fails"} {
		manifest := fmt.Sprintf(`{"appId": %q, "name": %[1]q, "baseUrl": %q, "webhooks": {"analytics": {"path": "/%[1]s", "async": true,
			"retry": {"maxAttempts": 5, "initialDelay": 10, "maxDelay": 20}, "breaker": {"failureThreshold": 2}}}}`, name, app.URL)
		command(t, manifest, "apps", "apply", "-")
		for n := range 3 {
			command(t, "", "publish", "analytics", name, "--id", fmt.Sprintf("%s-%d", name, n), `{}`)
		}
	}
	// What strangers come up with is counted, and names nothing.
	nc, err := nats.Connect(at.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, app := range []string{"invented", "\xff\xfe"} {
		if _, err := nc.Request("events.analytics."+app, []byte(`{}`), 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	postCallback(t, at.HTTP+"/callbacks/invented")
	// The failing app's breaker opens after two attempts, one of them a retry or not.
	want := map[string]float64{
		"backstop_attempts_total app=fine,capability=analytics,reason=,verdict=delivered":         3,
		"backstop_attempts_total app=rejects,capability=analytics,reason=status,verdict=rejected": 3,
		"backstop_dead_letters_total app=rejects,capability=analytics,reason=rejected":            3,
		"backstop_breaker_trips_total app=fails,capability=analytics":                             1,
		"backstop_breaker_state app=fails,capability=analytics,state=open":                        1,
		"backstop_endpoints capability=analytics":                                                 3,
		"backstop_endpoint_timeout_seconds app=fine,capability=analytics":                         30,
		"backstop_broker_up ":                 1,
		"backstop_nats_connected ":            1,
		"backstop_attempt_log_dropped_total ": 0,
		"backstop_build_info goversion=" + goVersion(t, at.HTTP) + ",version=" + buildVersion(): 1,
		"backstop_slow_attempts_total app=fine,capability=analytics":                            0,
		"backstop_breakers state=disabled":                                                      0,
		"backstop_stream_limit_bytes stream=DLQ":                                                -1, // by the disk
		"backstop_store_limit_bytes ":                                                           -1,
		"backstop_cache_requests_total result=hit":                                              0,
		"backstop_callbacks_total code=200":                                                     0,
		"backstop_callbacks_total code=404":                                                     1,
		"backstop_dead_letters_total app=,capability=analytics,reason=no_route":                 2,
		"backstop_endpoint_dead_letters_pending app=,capability=":                               2,
		"backstop_endpoint_dead_letters_pending app=rejects,capability=analytics":               3,
		"backstop_attempt_duration_seconds capability=analytics":                                -1,
		"backstop_attempts_total app=fails,capability=analytics,reason=status,verdict=retry":    -1,
		"backstop_retries_total app=rejects,capability=analytics":                               0,
	}
	documented := documentedMetrics(t)
	var missing []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		families := scrape(t, at.HTTP)
		for name, f := range families {
			if doc, ok := documented[name]; strings.HasPrefix(name, "backstop_") && (!ok || doc.kind != strings.ToLower(f.GetType().String())) {
				t.Fatalf("docs/metrics.md has no %s that is a %s", name, f.GetType())
			}
		}
		if families["go_goroutines"] == nil || families["process_cpu_seconds_total"] == nil {
			t.Fatal("no metrics of the Go runtime, or of the process")
		}
		missing = nil
		for name, value := range want {
			metric, labels, _ := strings.Cut(name, " ")
			if got, ok := series(families[metric])[labels]; !ok || value >= 0 && got != value {
				missing = append(missing, fmt.Sprintf("%s: %v, want %v", name, got, value))
			}
		}
		failed := series(families["backstop_attempts_total"])["app=fails,capability=analytics,reason=status,verdict=retry"]
		requests := series(families["backstop_attempt_duration_seconds"])["capability=analytics"]
		if all := seen[0].Load() + seen[1].Load() + seen[2].Load(); failed != float64(seen[2].Load()) || requests != float64(all) {
			missing = append(missing, fmt.Sprintf("%v failed of %v, and the apps saw %d of %d", failed, requests, seen[2].Load(), all))
		}
		if len(missing) == 0 {
			return
		}
	}
	t.Errorf("it never showed:\n%s", strings.Join(missing, "\n"))
}

// postCallback posts an app's result, whatever becomes of it.
func postCallback(t *testing.T, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	web := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

// goVersion is what the Go runtime's own metric says.
func goVersion(t *testing.T, url string) string {
	t.Helper()
	return scrape(t, url)["go_info"].GetMetric()[0].GetLabel()[0].GetValue()
}

// command runs one command in this process; it has to succeed.
func command(t *testing.T, in string, args ...string) {
	t.Helper()
	var said bytes.Buffer
	if code := run(args, strings.NewReader(in), io.Discard, &said); code != exitOK {
		t.Fatalf("%q: exit code %d\n%s", args, code, said.String())
	}
}

// The numbers that NATS is asked for, on streams with known contents.
func TestMetricsState(t *testing.T) {
	srv := natstest.Start(t, natstest.StoreMax(4<<30))
	nc := srv.Conn()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	topology := streams.NewTopology(js, streams.Settings{StoreBytes: 4 << 30})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(topology.Ensure(ctx))
	must(topology.EnsureCapability(ctx, "analytics"))
	published := time.Now().Add(-time.Hour)
	park := func(app string, events int) {
		for n := range events {
			e := streams.Event{ID: "e", Origin: fmt.Sprint(app, n), EndpointID: streams.EndpointID{Capability: "analytics", App: app}, Payload: []byte("{}"), PublishedAt: published}
			_, err := js.PublishMsg(ctx, e.LaneMsg())
			must(err)
		}
	}
	park("quiz", 2)
	park("shop", 5)
	for i := range mostSeries + 10 {
		park(fmt.Sprintf("more-%03d", i), 1)
	}
	letters := streams.NewDeadLetters(js)
	for n := range 3 {
		must(letters.Store(ctx, streams.DeadLetter{Event: streams.Event{
			ID: "d", Origin: fmt.Sprint(n), EndpointID: streams.EndpointID{Capability: "analytics", App: "quiz"}, Payload: []byte("{}"),
		}, Reason: streams.Exhausted}))
	}
	// For apps that there aren't: counted, and named nowhere.
	for _, app := range []string{"invented", "invented2", "\xff\xfe"} {
		for n := range 2 {
			must(letters.Store(ctx, streams.DeadLetter{Event: streams.Event{
				ID: "d", Origin: fmt.Sprint(app, n), EndpointID: streams.EndpointID{Capability: "analytics", App: app}, Payload: []byte("{}"),
			}, Reason: streams.NoRoute}))
		}
	}
	declares := func(id streams.EndpointID) bool {
		return id.Capability == "analytics" && (id.App == "quiz" || id.App == "shop" || strings.HasPrefix(id.App, "more-"))
	}
	for range 4 {
		_, err := js.Publish(ctx, "events.analytics.quiz", []byte("{}"))
		must(err)
	}
	c := &client{nc: nc, js: js, ops: ops.New(ops.Config{JetStream: js})}
	s, err := c.metricsState(ctx, 4<<30, declares)
	must(err)
	if len(s.Lanes) != 1 || s.Lanes[0].Events != 4 || s.Lanes[0].Capability != "analytics" || time.Since(s.Lanes[0].Oldest) > time.Minute {
		t.Errorf("shared lanes %+v", s.Lanes)
	}
	if s.OwnLanes != mostSeries+12 || s.Parked != mostSeries+17 || len(s.Longest) != mostSeries {
		t.Errorf("%d own lanes with %d events, %d of them told", s.OwnLanes, s.Parked, len(s.Longest))
	}
	longest := s.Longest[0]
	if longest.App != "shop" || longest.Events != 5 || !longest.Oldest.Equal(published) {
		t.Errorf("the longest lane is %+v, want that of shop with 5 events published at %v", longest, published)
	}
	dead := []metrics.Count{{N: 6}, {EndpointID: streams.EndpointID{Capability: "analytics", App: "quiz"}, N: 3}}
	if s.DeadLetters != 9 || !slices.Equal(s.MostDead, dead) {
		t.Errorf("dead letters %d, %+v", s.DeadLetters, s.MostDead)
	}
	names := map[string]bool{}
	for _, f := range s.Streams {
		names[f.Name] = f.Bytes > 0 && f.Bytes < f.Limit
	}
	if len(names) != 3 || !names["EVENTS_analytics"] || !names["LANES"] || !names["DLQ"] {
		t.Errorf("streams %+v, want those that refuse what doesn't fit", s.Streams)
	}
	if s.StoreLimit != 4<<30 || s.StoreBytes == 0 || s.StoreBytes > s.StoreLimit {
		t.Errorf("store %d of %d", s.StoreBytes, s.StoreLimit)
	}

	// What can't be asked for is an error, soon, and never half of the numbers.
	quick, err := jetstream.New(nc, jetstream.WithDefaultTimeout(100*time.Millisecond))
	must(err)
	lost := nc.StatusChanged(nats.RECONNECTING)
	srv.Stop()
	<-lost
	if _, err := (&client{nc: nc, js: quick, ops: ops.New(ops.Config{JetStream: quick})}).metricsState(ctx, 0, declares); err == nil {
		t.Error("no error without a server")
	}
}
