package dispatcher

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"backstop/dispatcher/breaker"
	"backstop/dispatcher/limit"
)

// The chain with everything on, beside a bare http.Client that is tuned as
// well: same receiver, same payload of 1 KB, 32 workers, one process. What
// differs is what this package costs.

var benchPayload = []byte(`{"data":"` + strings.Repeat("x", 1024) + `"}`)

const benchWorkers = 32

// cpuTime returns what the process has used so far, receiver and all.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// run makes attempts from all workers, and reports the CPU time of each beside
// the usual: on a shared machine it tells more than the clock.
func run(b *testing.B, attempt func() error) {
	b.Helper()
	b.SetParallelism(max(benchWorkers/runtime.GOMAXPROCS(0), 1))
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := attempt(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
}

func benchReceiver(b *testing.B) string {
	b.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, yes)
	}))
	b.Cleanup(srv.Close)
	return srv.URL
}

func BenchmarkBareClient(b *testing.B) {
	url := benchReceiver(b)
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	client := &http.Client{Transport: transport}
	b.Cleanup(transport.CloseIdleConnections)
	run(b, func() error {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(benchPayload))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	})
}

func BenchmarkPost(b *testing.B) {
	c := callTo(benchReceiver(b))
	benchmark(b, c, newPoster(b, PosterConfig{}).Post)
}

func BenchmarkChain(b *testing.B) {
	c := callTo(benchReceiver(b))
	benchmark(b, c, chain(newPoster(b, PosterConfig{}).Post))
}

// BenchmarkStages is what the stages cost without a request.
func BenchmarkStages(b *testing.B) {
	benchmark(b, callTo(""), chain(always(succeeds)))
}

func chain(h Handler) Handler {
	return Chain(h,
		Measure(NewMetrics(prometheus.NewRegistry()), func(Call, Outcome) {}),
		Breaker(breaker.NewSet(nil)),
		Limit(limit.NewSet()),
		Timeout(),
		Sign(func(string) []string { return []string{"whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="} }),
	)
}

func benchmark(b *testing.B, c Call, h Handler) {
	b.Helper()
	c.Event.Payload = benchPayload
	c.Endpoint.Concurrency = 1000
	run(b, func() error {
		if out := h(context.Background(), c); out.Verdict != Delivered {
			return fmt.Errorf("%+v", out)
		}
		return nil
	})
}
