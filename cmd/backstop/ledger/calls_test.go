package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"backstop/embedded/natstest"
	"backstop/streams"
)

const (
	callers = 500
	// callTime is how long the callers go on, and callKill when one of the two
	// replicas is killed.
	callTime = 6 * time.Second
	callKill = 2500 * time.Millisecond
	// callNoise is how long this process, which is all callers and all apps at
	// once, may take to wake a caller whose answer is there. Few may need it.
	callNoise = 500 * time.Millisecond
	callLate  = 0.02 // of all calls
)

// ills are what apps do to a call. "refuse" and "half-open" are missing: nobody
// listens at the one, and nobody reads at the other.
var ills = map[string]http.HandlerFunc{
	"ok":   say(200, `{"success":true,"data":{"points":7}}`),
	"slow": func(w http.ResponseWriter, r *http.Request) { wait(r, 400*time.Millisecond); ok(w) },
	"late": func(w http.ResponseWriter, r *http.Request) { wait(r, 2*time.Second); ok(w) },
	"hang": func(_ http.ResponseWriter, r *http.Request) { wait(r, time.Hour) },
	"trickle": func(w http.ResponseWriter, r *http.Request) { // a byte each 20 ms
		for range 1000 {
			_, _ = io.WriteString(w, " ")
			_ = http.NewResponseController(w).Flush()
			wait(r, 20*time.Millisecond)
		}
	},
	"huge":     say(200, `{"success":true,"data":"`+strings.Repeat("x", 10<<20)+`"}`),
	"cut":      func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1000"); ok(w) },
	"drop":     func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"garbage":  say(200, `<html>it works</html>`),
	"empty":    say(204, ``),
	"no":       say(200, `{"success":false,"error":{"code":"CLOSED","message":"the quiz is over"}}`),
	"busy":     say(200, `{"success":false,"error":{"code":"BUSY","message":"later","retryable":true}}`),
	"accept":   say(202, ``),
	"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) },
	"broken":   say(500, `oops`),
	"limited":  func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "1"); w.WriteHeader(429) },
	"missing":  say(404, ``),
	"flap": func(w http.ResponseWriter, r *http.Request) {
		if time.Now().UnixMilli()/300%2 == 0 {
			panic(http.ErrAbortHandler)
		}
		ok(w)
	},
}

func ok(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"success":true,"data":{"points":7}}`) }

func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// wait returns after d, and abandons the request when that is over before.
func wait(r *http.Request, d time.Duration) {
	_, _ = io.Copy(io.Discard, r.Body) // or its end is not noticed
	select {
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	case <-time.After(d):
	}
}

// fallbackLists are dealt out over the apps.
var fallbackLists = []string{
	`[]`,
	`[{"strategy":"cached","key":["/n"]},{"strategy":"default","handler":"reject"}]`,
	`[{"strategy":"queue"}]`,
	`[{"strategy":"pending"}]`,
	`[{"strategy":"default","handler":"service","subject":"fallback.nobody"},{"strategy":"default","handler":"static","value":{"points":0}}]`,
}

// applyIlls declares an app for each ill and returns their names.
func (r *rig) applyIlls() []string {
	r.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		ills[strings.TrimPrefix(req.URL.Path, "/")](w, req)
	}))
	r.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	urls := map[string]string{"refuse": "http://127.0.0.1:1", "half-open": "http://" + r.halfOpenAt}
	for name := range ills {
		urls[name] = srv.URL
	}
	var files []string
	names := slices.Sorted(maps.Keys(urls))
	for i, name := range names {
		url, list := urls[name], fallbackLists[i%len(fallbackLists)]
		if name == "flap" { // what it says when it is well is cached for when it isn't
			list = fallbackLists[1]
		}
		file := filepath.Join(r.dir, name+".json")
		manifest := fmt.Sprintf(`{"appId":%q,"name":%q,"baseUrl":%q,"webhooks":{"score":{"path":"/%s","async":false,"timeout":2000,"concurrency":40,"fallback":%s,
			"breaker":{"failureThreshold":5,"recoveryTimeout":500,"successThreshold":1}}}}`, name, name, url, name, list)
		r.must(os.WriteFile(file, []byte(manifest), 0o600))
		files = append(files, file)
	}
	r.command(append([]string{"apps", "apply"}, files...)...)
	return names
}

// tally is what became of the calls.
type tally struct {
	sync.Mutex
	sources map[streams.Source]int
	reasons map[string]int
	nobody  int
	late    int
	slowest time.Duration // the least time that was left when an answer came
	silence []string      // the calls that had no answer at all
	echo    time.Duration // the longest that NATS took for a request to nobody but itself
}

// busy is an echo that says that the machine can't be asked for punctuality: a
// call goes through four processes that have to be run in time.
const busy = 100 * time.Millisecond

// listen measures, until ctx ends, what a request costs that Backstop has
// nothing to do with.
func (s *tally) listen(ctx context.Context, nc *nats.Conn) error {
	sub, err := nc.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(nil) })
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for ; ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
		began := time.Now()
		if _, err := nc.Request("echo", nil, time.Minute); err != nil {
			return err
		}
		s.Lock()
		s.echo = max(s.echo, time.Since(began))
		s.Unlock()
	}
	return nil
}

// TestCallsAreAnswered: 500 callers at once, twenty apps of which seventeen
// misbehave, two replicas of which one is killed in the middle: every caller has
// an answer, or NATS's word that nobody is there, before its deadline.
func TestCallsAreAnswered(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	srv := natstest.Start(t, natstest.Listen())
	r := newRig(t, ctx)
	r.url = srv.URL()
	r.env = append(r.env, "NATS_URL="+r.url)
	second := r.sibling()
	r.start()
	second.start()
	apps := r.applyIlls()
	nc, err := nats.Connect(srv.URL())
	r.must(err)
	defer nc.Close()
	r.awaitWatch(nc, 2)

	sum := &tally{sources: map[streams.Source]int{}, reasons: map[string]int{}, slowest: time.Hour}
	ending, stop := context.WithTimeout(ctx, callTime)
	defer stop()
	var calling sync.WaitGroup
	own, err := nats.Connect(srv.URL())
	r.must(err)
	defer own.Close()
	calling.Go(func() {
		if err := sum.listen(ending, own); err != nil {
			t.Error(err)
		}
	})
	for i := range callers {
		calling.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			pause(ending, time.Duration(random.IntN(500))*time.Millisecond)
			for n := 0; ending.Err() == nil; n++ {
				r.callOnce(nc, apps[random.IntN(len(apps))], fmt.Sprintf("%d-%d", i, n), time.Duration(1000+random.IntN(2000))*time.Millisecond, sum)
				pause(ending, time.Duration(random.IntN(300))*time.Millisecond)
			}
		})
	}
	pause(ctx, callKill)
	r.kill()
	calling.Wait()
	t.Logf("sources %v, reasons %v, no responders %d; at least %v were left, %d were late; the longest echo %v", sum.sources, sum.reasons, sum.nobody, sum.slowest, sum.late, sum.echo)
	total := sum.nobody
	for _, n := range sum.sources {
		total += n
	}
	switch {
	case sum.echo > busy:
		t.Logf("NATS itself took up to %v: this machine is too busy to say who was late (%d, and %d without an answer)", sum.echo, sum.late, len(sum.silence))
	case float64(sum.late) > callLate*float64(total):
		t.Errorf("%d of %d answers came after the deadline", sum.late, total)
	case len(sum.silence) > 0:
		t.Errorf("%d calls had no answer, as %s", len(sum.silence), sum.silence[0])
	}
	for _, s := range []streams.Source{streams.SourceApp, streams.SourceCache, streams.SourceDefault, streams.SourceQueued, streams.SourcePending, streams.SourceNone} {
		if sum.sources[s] == 0 {
			t.Errorf("no call was answered by %q: the test shows less than it says", s)
		}
	}

	second.kill()
	// A call that comes before NATS has noticed goes to the dead; the next doesn't.
	for began := time.Now(); ; {
		_, err := nc.Request("calls.score.ok", []byte(`{}`), 200*time.Millisecond)
		if errors.Is(err, nats.ErrNoResponders) {
			break
		}
		if took := time.Since(began); took > time.Second {
			t.Fatalf("with no replica left for %v a call got %v, want no responders", took, err)
		}
	}
}

// callOnce makes a call as a service does, with all the patience it has.
func (r *rig) callOnce(nc *nats.Conn, app, id string, patience time.Duration, sum *tally) {
	msg := nats.NewMsg("calls.score." + app)
	msg.Data = []byte(`{"n":1}`)
	msg.Header.Set(streams.HeaderMsgID, id)
	msg.Header.Set(streams.HeaderTimeoutMs, strconv.FormatInt(patience.Milliseconds(), 10))
	began := time.Now()
	answer, err := nc.RequestMsg(msg, patience+callNoise)
	took := time.Since(began)
	sum.Lock()
	defer sum.Unlock()
	if errors.Is(err, nats.ErrNoResponders) {
		sum.nobody++
		return
	}
	if err != nil {
		sum.silence = append(sum.silence, fmt.Sprintf("%s to %s: %v after %v of %v", id, app, err, took, patience))
		return
	}
	var reply streams.Reply
	if err := json.Unmarshal(answer.Data, &reply); err != nil || reply.RequestID != id {
		r.Errorf("%s to %s got %.200s (%v)", id, app, answer.Data, err)
	}
	sum.sources[reply.Source]++
	sum.reasons[reply.Reason]++
	sum.slowest = min(sum.slowest, patience-took)
	if took > patience {
		sum.late++
	}
}

// awaitWatch waits until so many replicas watch over each other's calls.
func (r *rig) awaitWatch(nc *nats.Conn, replicas int) {
	r.Helper()
	subject, err := micro.ControlSubject(micro.StatsVerb, "backstop-calls", "")
	r.must(err)
	for r.ctx.Err() == nil {
		inbox := nc.NewInbox()
		sub, err := nc.SubscribeSync(inbox)
		r.must(err)
		r.must(nc.PublishRequest(subject, inbox, nil))
		watching := 0
		for range replicas {
			if msg, err := sub.NextMsg(time.Second); err == nil && strings.Contains(string(msg.Data), fmt.Sprintf(`"siblings":%d`, replicas-1)) {
				watching++
			}
		}
		_ = sub.Unsubscribe()
		if watching == replicas {
			return
		}
	}
	r.Fatal("the replicas don't watch over each other's calls")
}
