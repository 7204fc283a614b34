package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/streams"
)

// truth is what an app has on record of itself: the requests to each path, and
// how long they took there.
type truth struct {
	mu   sync.Mutex
	seen map[string]*onRecord
}

type onRecord struct {
	requests, succeeded int
	tookMs              []float64
}

// ServeHTTP answers every fourth request to a path with 503, and takes 20 to
// 119 ms over each.
func (a *truth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	_, _ = io.Copy(io.Discard, r.Body)
	a.mu.Lock()
	if a.seen[r.URL.Path] == nil {
		a.seen[r.URL.Path] = &onRecord{}
	}
	record := a.seen[r.URL.Path]
	record.requests++
	n := record.requests
	a.mu.Unlock()
	<-time.After(time.Duration(20+n*37%100) * time.Millisecond)
	a.mu.Lock()
	record.tookMs = append(record.tookMs, float64(time.Since(began).Microseconds())/1000)
	if n%4 != 0 {
		record.succeeded++
	}
	a.mu.Unlock()
	if n%4 == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, `{"success":true,"data":{}}`)
}

// percentile is the nearest rank.
func percentile(of []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[int(math.Ceil(share*float64(len(sorted))))-1]
}

// TestEverybodyTellsTheTruth: the delivery log, the metrics, what is added up,
// the overview and the page say of an app what it has on record itself: counts
// to the last one, and durations as well as a sketch can.
func TestEverybodyTellsTheTruth(t *testing.T) {
	where, c := serveWithAPI(t)

	own := &truth{seen: make(map[string]*onRecord)}
	app := httptest.NewServer(own)
	defer app.Close()
	breaker := `"breaker":{"failureThreshold":1000}`
	c.do(http.StatusCreated, http.MethodPut, "apps/quiz", fmt.Sprintf(`{"appId":"quiz","baseUrl":%q,"webhooks":{
		"report":{"path":"/report","async":true,"retry":{"maxAttempts":2,"initialDelay":10,"maxDelay":10},%[2]s},"score":{"path":"/score","concurrency":100,%[2]s}}}`, app.URL, breaker), nil)
	c.until("the capability has its stream", "overview", func(body string) bool { return strings.Contains(body, `"capability":"report","backlog"`) })
	nc, err := nats.Connect(where.NATS)
	fatal(t, err)
	defer nc.Close()
	const events, calls = 120, 60
	for i := range events {
		_, err := nc.RequestMsg(&nats.Msg{Subject: "events.report.quiz", Header: nats.Header{"Nats-Msg-Id": {"e" + strconv.Itoa(i)}}, Data: []byte(`{}`)}, 10*time.Second)
		fatal(t, err)
	}
	var calling sync.WaitGroup
	for range 4 {
		calling.Go(func() {
			for range calls / 4 {
				if _, err := nc.Request("calls.score.quiz", []byte(`{}`), time.Minute); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calling.Wait()

	type figures struct {
		Capability string  `json:"capability"`
		Attempts   int     `json:"attempts"`
		Succeeded  int     `json:"succeeded"`
		P50Ms      float64 `json:"p50Ms"`
		P95Ms      float64 `json:"p95Ms"`
	}
	var overview struct {
		figures
		Backlog     int `json:"backlog"`
		DeadLetters struct {
			Total int `json:"total"`
		} `json:"deadLetters"`
		Apps []struct {
			Endpoints []figures `json:"endpoints"`
		} `json:"apps"`
	}
	letters := func() (n int) { // events that failed twice
		own.mu.Lock()
		defer own.mu.Unlock()
		return events - own.seen["/report"].succeeded
	}
	sum := func() (requests int) {
		own.mu.Lock()
		defer own.mu.Unlock()
		for _, r := range own.seen {
			requests += r.requests
		}
		return requests
	}
	c.until("everything is settled and added up", "overview", func(body string) bool {
		fatal(t, json.Unmarshal([]byte(body), &overview))
		return overview.Backlog == 0 && overview.DeadLetters.Total == letters() && overview.Attempts == sum() && strings.Contains(body, `"backlog":0`)
	})
	for _, is := range overview.Apps[0].Endpoints {
		record := own.seen["/"+is.Capability]
		if is.Attempts != record.requests || is.Succeeded != record.succeeded {
			t.Errorf("%s: the overview has %d attempts, %d good; the app %d and %d", is.Capability, is.Attempts, is.Succeeded, record.requests, record.succeeded)
		}
		entries, good := 0, 0
		var tookMs []float64
		for cursor := ""; ; {
			var page struct {
				Items      []streams.Attempt `json:"items"`
				NextCursor string            `json:"nextCursor"`
			}
			c.do(http.StatusOK, http.MethodGet, "attempts?limit=50&app=quiz&capability="+is.Capability+cursor, "", &page)
			for _, a := range page.Items {
				if a.Requested {
					entries++
					tookMs = append(tookMs, a.DurationMs)
				}
				if a.Success {
					good++
				}
			}
			if page.NextCursor == "" {
				break
			}
			cursor = "&cursor=" + page.NextCursor
		}
		if entries != record.requests || good != record.succeeded {
			t.Errorf("%s: the delivery log has %d entries, %d good; the app %d and %d", is.Capability, entries, good, record.requests, record.succeeded)
		}
		for share, got := range map[float64]float64{0.5: is.P50Ms, 0.95: is.P95Ms} {
			// The sketch has 1%. What lies between the app's clock and ours is as
			// long as a busy machine makes it, and never negative.
			logged, seen := percentile(tookMs, share), percentile(record.tookMs, share)
			if got < logged*0.99-1 || got > logged*1.01+1 || got < seen*0.99-1 {
				t.Errorf("%s: the %.0fth percentile is %.1f ms in the overview, %.1f in the delivery log, and %.1f by the app", is.Capability, share*100, got, logged, seen)
			}
		}
	}

	counted, delivered := 0.0, 0.0
	for _, m := range scrapeWith(t, where.HTTP, apiToken)["backstop_attempts_total"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "verdict" && l.GetValue() != "refused" { // those make no request
				counted += m.GetCounter().GetValue()
			}
			if l.GetName() == "verdict" && l.GetValue() == "delivered" {
				delivered += m.GetCounter().GetValue()
			}
		}
	}
	if int(counted) != sum() || int(delivered) != own.seen["/report"].succeeded+own.seen["/score"].succeeded {
		t.Errorf("the metrics have %v attempts, %v good; the app %d and %d", counted, delivered, sum(), own.seen["/report"].succeeded+own.seen["/score"].succeeded)
	}
	page := string(c.fetch(http.StatusOK, http.MethodGet, "/ui/overview", ""))
	for _, want := range []string{fmt.Sprintf("%d attempts", sum()), fmt.Sprintf("<dd>%d</dd>", letters())} {
		if !strings.Contains(page, want) {
			t.Errorf("the page doesn't say %q:\n%s", want, page)
		}
	}
}
