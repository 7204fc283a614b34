package admin_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"backstop/cmd/backstop/admin"
)

// serve runs a server until the test ends and returns its URL.
func serve(t *testing.T, cfg admin.Config) string {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	return serveLogged(t, cfg)
}

// serveLogged is serve with a log of the test's own.
func serveLogged(t *testing.T, cfg admin.Config) string {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	s, err := admin.Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s.URL()
}

// get returns the status and the body.
func get(t *testing.T, url, authorization string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	client := http.Client{}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestProbesTellWhatIsWrong(t *testing.T) {
	var broken atomic.Bool
	url := serve(t, admin.Config{
		Metrics: prometheus.NewRegistry(), Healthy: func() error { return nil },
		Ready: func() error {
			if broken.Load() {
				return errors.New("NATS is away")
			}
			return nil
		},
	})
	if status, body := get(t, url+"/readyz", ""); status != 200 || !strings.Contains(body, "ok") {
		t.Errorf("/readyz = %d %s", status, body)
	}
	broken.Store(true)
	if status, body := get(t, url+"/readyz", ""); status != 503 || !strings.Contains(body, "NATS is away") {
		t.Errorf("/readyz while broken = %d %s", status, body)
	}
	if status, _ := get(t, url+"/healthz", ""); status != 200 {
		t.Errorf("/healthz = %d", status)
	}
}

func TestMetricsAskForTheToken(t *testing.T) {
	registry := prometheus.NewRegistry()
	prometheus.WrapRegistererWith(nil, registry).MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "seen"}, func() float64 { return 1 }))
	fine := func() error { return nil }
	url := serve(t, admin.Config{Token: "s3cret", Metrics: registry, Healthy: fine, Ready: fine})
	for _, tc := range []struct {
		authorization string
		want          int
	}{{"", 401}, {"Bearer wrong", 401}, {"s3cret", 401}, {"Bearer s3cret", 200}} {
		status, body := get(t, url+"/metrics", tc.authorization)
		if status != tc.want || strings.Contains(body, "seen") != (tc.want == 200) || strings.Contains(body, "s3cret") {
			t.Errorf("/metrics with %q = %d %s", tc.authorization, status, body)
		}
	}
	if status, _ := get(t, url+"/healthz", ""); status != 200 {
		t.Errorf("/healthz asks for the token: %d", status)
	}
}

func TestTakenAddressNamesTheSetting(t *testing.T) {
	fine := func() error { return nil }
	url := serve(t, admin.Config{Metrics: prometheus.NewRegistry(), Healthy: fine, Ready: fine})
	_, err := admin.Listen(t.Context(), admin.Config{Addr: strings.TrimPrefix(url, "http://")})
	if err == nil || !strings.Contains(err.Error(), "BACKSTOP_HTTP_ADDR") {
		t.Errorf("listening on a taken address: %v", err)
	}
}
