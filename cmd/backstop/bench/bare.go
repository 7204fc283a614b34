package bench

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Rate is a throughput with what it cost this process.
type Rate struct {
	PerSecond float64 `json:"perSecond"`
	// CPUPer1000 is the CPU time of this process for 1,000 deliveries, in seconds.
	CPUPer1000 float64 `json:"cpuSecondsPer1000"`
}

// meter measures a span of work.
type meter struct {
	began time.Time
	cpu   time.Duration
}

func startMeter() meter { return meter{began: time.Now(), cpu: CPUTime()} }

func (m meter) rate(n int) Rate {
	if n == 0 {
		return Rate{}
	}
	return Rate{
		PerSecond:  float64(n) / time.Since(m.began).Seconds(),
		CPUPer1000: (CPUTime() - m.cpu).Seconds() / float64(n) * 1000,
	}
}

// CPUTime is what this process has used, user and system.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bareClient is tuned as the dispatcher's is: the default keeps two idle
// connections to a host and gets slower with concurrency.
func bareClient(workers int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers, DisableCompression: true}}
}

// post makes one bare request of so many bytes, answer read, connection kept.
func post(ctx context.Context, client *http.Client, url string, size int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(PayloadOf(time.Now(), size)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return err
}

// Bare posts as fast as the workers can for the given time: what this machine
// does with no broker and nothing kept. A size of 0 is 1 KB.
func Bare(ctx context.Context, url string, workers, size int, d time.Duration) Rate {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	client := bareClient(workers)
	defer client.CloseIdleConnections()
	var done atomic.Int64
	m := startMeter()
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for ctx.Err() == nil {
				if post(ctx, client, url, size) == nil {
					done.Add(1)
				}
			}
		})
	}
	all.Wait()
	return m.rate(int(done.Load()))
}

// Paced calls send at a steady rate for the given time, without waiting for
// one to end before the next begins, and returns when all have.
func Paced(ctx context.Context, perSecond int, d time.Duration, send func(context.Context)) {
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	for end := time.Now().Add(d); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			all.Go(func() { send(ctx) })
		}
	}
}

// BarePaced posts at a steady rate; the receiver has the latencies.
func BarePaced(ctx context.Context, url string, perSecond int, d time.Duration) {
	client := bareClient(perSecond)
	defer client.CloseIdleConnections()
	Paced(ctx, perSecond, d, func(ctx context.Context) { _ = post(ctx, client, url, 0) })
}
