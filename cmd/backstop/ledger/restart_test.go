package ledger

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"backstop/streams"
)

// visitor is an app in this process: it tells of each request and answers when
// it is let go.
type visitor struct {
	*httptest.Server
	arrived chan arrival
	answer  chan struct{} // closed: answer at once
	once    sync.Once
}

type arrival struct {
	id, attempt string
	at          time.Time
}

func newVisitor(t *testing.T) *visitor {
	t.Helper()
	v := &visitor{arrived: make(chan arrival, 100), answer: make(chan struct{})}
	v.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		v.arrived <- arrival{r.Header.Get("X-Request-Id"), r.Header.Get("X-Platform-Attempt"), time.Now()}
		select {
		case <-v.answer:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler) // returning would answer 200
		}
		w.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(func() {
		v.letGo()
		v.Close()
	})
	return v
}

func (v *visitor) letGo() { v.once.Do(func() { close(v.answer) }) }

// next waits for a request.
func (v *visitor) next(r *rig) arrival {
	r.Helper()
	select {
	case a := <-v.arrived:
		return a
	case <-r.ctx.Done():
		r.Fatal("no request came")
		return arrival{}
	}
}

// visit runs serve with the visitor as its only app, and publishes one event to it.
func (r *rig) visit(v *visitor) {
	r.Helper()
	r.start()
	file := filepath.Join(r.dir, "visitor.json")
	manifest := `{"appId":"visitor","name":"Visitor","baseUrl":"` + v.URL + `","webhooks":{"analytics":{"path":"/","async":true,"timeout":20000}}}`
	r.must(os.WriteFile(file, []byte(manifest), 0o600))
	r.command("apps", "apply", file)
	r.command("publish", capability, "visitor", "--id", "in-flight", `{}`)
}

// TestKilledInFlightIsTriedAgainSoon: what was in flight at a SIGKILL is tried
// again within 5 s of the restart, as the same attempt.
func TestKilledInFlightIsTriedAgainSoon(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, v := newRig(t, ctx), newVisitor(t)
	r.visit(v)
	first := v.next(r)
	r.kill()
	restarted := time.Now()
	r.start()
	again := v.next(r)
	if took := again.at.Sub(restarted); took > 5*time.Second {
		t.Errorf("tried again %v after the restart, want 5 s at most", took)
	} else {
		t.Logf("tried again %v after the restart", took)
	}
	if again.id != first.id || again.attempt != "1" {
		t.Errorf("tried again as %+v, want the same id and attempt 1: nobody knows what became of the first", again)
	}
}

// TestTerminatedServeFinishesWhatIsInFlight: SIGTERM waits for the answer,
// loses nothing, and repeats nothing after the next start.
func TestTerminatedServeFinishesWhatIsInFlight(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, v := newRig(t, ctx), newVisitor(t)
	r.visit(v)
	v.next(r)
	r.must(r.serve.Process.Signal(syscall.SIGTERM))
	// It is draining when its HTTP side is gone, and must not have ended.
	for r.ready() && ctx.Err() == nil {
		pause(ctx, 10*time.Millisecond)
	}
	select {
	case err := <-r.exited:
		t.Fatalf("serve ended with an attempt in flight: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	v.letGo()
	if err := <-r.exited; err != nil {
		t.Errorf("serve ended with %v, want success", err)
	}
	r.start()
	r.command("publish", capability, "visitor", "--id", "after", `{}`)
	if a := v.next(r); a.id != "after" {
		t.Errorf("after the restart came %+v; want the delivered event not to be repeated", a)
	}
	out, err := r.output("dlq", "list", "--json")
	if err != nil || strings.Contains(string(out), "in-flight") {
		t.Errorf("dead letters: %s, %v", out, err)
	}
	nc, js := r.connect()
	defer nc.Close()
	for ctx.Err() == nil { // both settled
		cons, err := js.Consumer(ctx, streams.EventStream(capability), streams.EventConsumer)
		r.must(err)
		if i := cons.CachedInfo(); i.NumPending == 0 && i.NumAckPending == 0 {
			return
		}
		pause(ctx, 20*time.Millisecond)
	}
	t.Error("an event is still pending")
}
