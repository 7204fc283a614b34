package consumers_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers"
	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/dispatcher/callback"
	"backstop/dispatcher/limit"
	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/manifest"
)

// callbackIssuer is that of every replica in the tests.
var callbackIssuer = callback.NewIssuer([]byte("a key"), 0)

// bundle is a pipeline over a real broker, and apps over real HTTP.
type bundle struct {
	*testing.T
	ctx       context.Context // without a deadline, so that each request has its own timeout
	patience  context.Context // ends when a test has waited for long enough
	srv       *natstest.Server
	nc        *nats.Conn
	js        jetstream.JetStream
	topology  *streams.Topology
	manifests *manifest.Store
	gates     *streams.Gates
	publisher *streams.Publisher
	letters   *streams.DeadLetters

	// tell hears of each replica's breakers, if it is set before they start.
	tell func(replica string, c breaker.Change)

	mu      sync.Mutex
	outcome []dispatcher.Outcome // of every attempt, in order of completion
}

func setup(t *testing.T, opts ...natstest.Option) *bundle {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	patience, stop := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(stop)
	b := &bundle{T: t, ctx: ctx, patience: patience, srv: natstest.Start(t, opts...)}
	b.nc = b.srv.Conn()
	var err error
	b.js, err = jetstream.New(b.nc)
	b.must(err)
	b.topology = streams.NewTopology(b.js, streams.Settings{StoreBytes: 4 << 30})
	b.must(b.topology.Ensure(ctx))
	apps, err := b.js.KeyValue(ctx, streams.AppsBucket)
	b.must(err)
	gates, err := b.js.KeyValue(ctx, streams.BreakersBucket)
	b.must(err)
	b.manifests, b.gates = manifest.NewStore(apps, slog.New(slog.NewTextHandler(t.Output(), nil))), streams.NewGates(gates)
	b.publisher, b.letters = streams.NewPublisher(b.js), streams.NewDeadLetters(b.js)
	return b
}

func (b *bundle) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// pipeline is one running replica.
type pipeline struct {
	*consumers.Pipeline
	stop func() error // ends Run and returns its error; may be called once more for nothing
}

// start runs a replica until the test ends or its stop is called.
func (b *bundle) start(name string, change ...func(*consumers.Config)) *pipeline {
	b.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	transitions := consumers.NewTransitions()
	breakers, limits := breaker.NewSet(func(c breaker.Change) {
		if b.tell != nil {
			b.tell(name, c)
		}
		transitions.Push(c)
	}), limit.NewSet()
	poster := dispatcher.NewPoster(dispatcher.PosterConfig{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, UserAgent: "Backstop/" + name})
	cfg := consumers.Config{
		JetStream: b.js, Calls: b.srv.Conn(), Topology: b.topology, Breakers: breakers, Limits: limits, Transitions: transitions,
		Deliver: dispatcher.Chain(poster.Post,
			dispatcher.Measure(nil, b.record),
			dispatcher.Refuse(),
			dispatcher.Breaker(breakers),
			dispatcher.Limit(limits),
			dispatcher.Timeout(),
			dispatcher.Callback(callbackIssuer, "https://hooks.example.com"),
			dispatcher.Sign(func(string) []string { return []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"} }),
		),
		Manifests: b.manifests, Defaults: manifest.BuiltinDefaults(), Replica: name,
		Log: slog.New(slog.NewTextHandler(b.Output(), nil)).With("replica", name), Drain: 5 * time.Second,
	}
	for _, c := range change {
		c(&cfg)
	}
	p, err := consumers.New(ctx, cfg)
	b.must(err)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		err := <-done
		poster.Close()
		return err
	})
	b.Cleanup(func() { _ = stop() })
	select {
	case <-p.Ready():
	case <-b.patience.Done():
		b.Fatal("the pipeline did not get ready")
	}
	return &pipeline{Pipeline: p, stop: stop}
}

func (b *bundle) record(_ dispatcher.Call, out dispatcher.Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outcome = append(b.outcome, out)
}

// apply declares an app with one async webhook per capability. The webhook's
// JSON is merged from the parts.
func (b *bundle) apply(app, url string, webhook map[string]any, capabilities ...string) {
	b.Helper()
	hooks := map[string]any{}
	for _, c := range capabilities {
		hook := map[string]any{"path": "/" + c, "async": true}
		maps.Copy(hook, webhook)
		hooks[c] = hook
	}
	data, err := json.Marshal(map[string]any{
		"appId": app, "name": app, "baseUrl": url, "webhooks": hooks,
		"health": map[string]any{"path": "/health"}, "metrics": map[string]any{"path": "/metrics"},
	})
	b.must(err)
	m, err := manifest.Parse(data, manifest.Options{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	b.must(err)
	_, _, err = b.manifests.Put(b.ctx, m, nil)
	b.must(err)
}

func (b *bundle) publish(to streams.EndpointID, id string, payload string) {
	b.Helper()
	_, err := b.publisher.Publish(b.ctx, to, id, []byte(payload))
	b.must(err)
}

// publishable waits until the capability takes events, which a manifest that
// was applied a moment ago brings about.
func (b *bundle) publishable(capability string) {
	b.Helper()
	b.eventually("the stream of "+capability, func() bool {
		s, err := b.js.Stream(b.ctx, streams.EventStream(capability))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return false
		}
		b.must(err)
		return s.CachedInfo().Config.Subjects[0] == "events."+capability
	})
}

// eventually polls until the condition holds.
func (b *bundle) eventually(what string, holds func() bool) {
	b.Helper()
	for !holds() {
		select {
		case <-b.patience.Done():
			b.Fatalf("gave up waiting for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// throughout checks over and over for a while that nothing happens.
func (b *bundle) throughout(span time.Duration, check func()) {
	b.Helper()
	for over := time.After(span); ; {
		select {
		case <-over:
			return
		case <-time.After(100 * time.Millisecond):
			check()
		}
	}
}

func (b *bundle) deadLetters() []streams.DeadLetter {
	b.Helper()
	var all []streams.DeadLetter
	for d, err := range b.letters.Select(b.ctx, streams.Filter{}) {
		b.must(err)
		all = append(all, d)
	}
	return all
}

// awaitDeadLetters waits for n and returns them.
func (b *bundle) awaitDeadLetters(n int) []streams.DeadLetter {
	b.Helper()
	var all []streams.DeadLetter
	b.eventually(strconv.Itoa(n)+" dead letters", func() bool {
		all = b.deadLetters()
		return len(all) >= n
	})
	if len(all) > n {
		b.Fatalf("%d dead letters, want %d", len(all), n)
	}
	return all
}

// settled waits until nothing is pending anywhere.
func (b *bundle) settled() {
	b.Helper()
	b.eventually("everything to be settled", func() bool {
		names := b.js.StreamNames(b.ctx)
		for name := range names.Name() {
			if len(name) > len(streams.EventStreamPrefix) && name[:len(streams.EventStreamPrefix)] == streams.EventStreamPrefix {
				cons, err := b.js.Consumer(b.ctx, name, streams.EventConsumer)
				if errors.Is(err, context.DeadlineExceeded) {
					return false // the request went down with a broker that was restarted
				}
				b.must(err)
				if i := cons.CachedInfo(); i.NumPending > 0 || i.NumAckPending > 0 {
					return false
				}
			}
		}
		s, err := b.js.Stream(b.ctx, streams.LaneStream)
		b.must(err)
		return s.CachedInfo().State.Msgs == 0 && s.CachedInfo().State.Consumers == 0
	})
}

// app is a receiver that answers as it is told and keeps a record.
type app struct {
	*httptest.Server
	mu       sync.Mutex
	answer   func(*http.Request) (status int, header http.Header, body string)
	requests []request
}

type request struct {
	at      time.Time
	path    string
	header  http.Header
	payload string
}

func newApp(b *bundle, answer func(*http.Request) (int, http.Header, string)) *app {
	b.Helper()
	a := &app{answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		a.requests = append(a.requests, request{at: time.Now(), path: r.URL.Path, header: r.Header.Clone(), payload: string(body)})
		answer := a.answer
		a.mu.Unlock()
		status, header, text := answer(r)
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	b.Cleanup(a.Close)
	return a
}

func (a *app) setAnswer(answer func(*http.Request) (int, http.Header, string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

func (a *app) received() []request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]request(nil), a.requests...)
}

// forget clears the record.
func (a *app) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = nil
}

// byID counts requests by X-Request-ID.
func (a *app) byID() map[string]int {
	count := map[string]int{}
	for _, r := range a.received() {
		count[r.header.Get("X-Request-Id")]++
	}
	return count
}

func always(status int) func(*http.Request) (int, http.Header, string) {
	return func(*http.Request) (int, http.Header, string) { return status, nil, "" }
}

// hang answers only when the test or the request is over.
func hang(b *bundle) func(*http.Request) (int, http.Header, string) {
	return func(r *http.Request) (int, http.Header, string) {
		select {
		case <-r.Context().Done():
		case <-b.ctx.Done():
		}
		panic(http.ErrAbortHandler) // answering anything would count
	}
}

var quick = map[string]any{"retry": map[string]any{"maxAttempts": 3, "initialDelay": 20, "maxDelay": 100}, "timeout": 2000}

func endpoint(capability, app string) streams.EndpointID {
	return streams.EndpointID{Capability: capability, App: app}
}
