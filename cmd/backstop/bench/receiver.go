// Package bench measures this build on this machine: deliveries a second,
// latency, what hanging endpoints cost the healthy ones, and what idle
// endpoints cost. Every figure stands next to that of a bare HTTP loop from
// the same run, because machines differ and are noisy.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// kilobyte is how large events are where nothing else is said.
const kilobyte = 1024

// Payload returns 1 KB of JSON that begins with the time, so that a receiver
// can tell how long it was on its way.
func Payload(now time.Time) []byte { return PayloadOf(now, 0) }

// PayloadOf returns as much of it as is asked for, at least 64 bytes; 1 KB if
// the size is 0.
func PayloadOf(now time.Time, size int) []byte {
	const least = 64
	if size == 0 {
		size = kilobyte
	}
	head := fmt.Sprintf(`{"t":%019d,"pad":"`, now.UnixNano())
	return append(append([]byte(head), strings.Repeat("x", max(size, least)-len(head)-2)...), '"', '}')
}

// sentAt reads the time back.
func sentAt(payload []byte) (time.Time, bool) {
	if len(payload) < 24 {
		return time.Time{}, false
	}
	ns, err := strconv.ParseInt(string(payload[5:24]), 10, 64)
	return time.Unix(0, ns), err == nil
}

// Tally is what a receiver has counted since it was last asked.
type Tally struct {
	Count int `json:"count"`
	// The latencies are from the time in the payload to the arrival.
	P50 time.Duration `json:"p50"`
	P95 time.Duration `json:"p95"`
	P99 time.Duration `json:"p99"`
}

// receiver answers webhooks and keeps their latencies. Paths below /hang are
// never answered; those below /slow/<ms> after that time, and their latency
// has it in it.
type receiver struct {
	mu        sync.Mutex
	latencies []time.Duration
}

// Receive serves on a free port of loopback, which it prints, until in ends.
// It runs as a process of its own, so that its cost is not the pipeline's.
func Receive(ctx context.Context, in io.Reader, out io.Writer) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r := &receiver{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hang/", func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
		panic(http.ErrAbortHandler) // returning would answer 200
	})
	mux.HandleFunc("POST /ok/", r.take)
	mux.HandleFunc("POST /slow/{ms}/", func(w http.ResponseWriter, req *http.Request) {
		ms, _ := strconv.Atoi(req.PathValue("ms"))
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
			r.take(w, req)
		case <-req.Context().Done():
		}
	})
	mux.HandleFunc("GET /tally", r.tally)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		_, _ = io.Copy(io.Discard, in) // ends with the parent, however that ends
		_ = srv.Close()
	}()
	fmt.Fprintln(out, listener.Addr())
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (r *receiver) take(w http.ResponseWriter, req *http.Request) {
	arrived := time.Now()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	if sent, ok := sentAt(body); ok {
		r.mu.Lock()
		r.latencies = append(r.latencies, arrived.Sub(sent))
		r.mu.Unlock()
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"success":true}`)
}

// tally answers what was counted, and with ?reset begins anew.
func (r *receiver) tally(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	latencies := slices.Clone(r.latencies)
	if req.URL.Query().Has("reset") {
		r.latencies = nil
	}
	r.mu.Unlock()
	slices.Sort(latencies)
	_ = json.NewEncoder(w).Encode(Tally{ //nolint:errchkjson // the peer has gone if this fails
		Count: len(latencies), P50: percentile(latencies, 50), P95: percentile(latencies, 95), P99: percentile(latencies, 99),
	})
}

// percentile returns the nearest-rank percentile of sorted values; 0 of none.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min((len(sorted)*p+99)/100, len(sorted))-1]
}
