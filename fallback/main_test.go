package fallback

import (
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/dispatcher"
	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/manifest"
)

var testID = streams.EndpointID{Capability: "quizAnswer", App: "quiz"}

// callWith returns a call of 2 s for an endpoint with the strategies.
func callWith(payload string, list ...manifest.Strategy) dispatcher.Call {
	return dispatcher.Call{
		Event: streams.Event{EndpointID: testID, ID: "call-1", Payload: []byte(payload), TraceParent: "00-parent", TraceState: "a=b"},
		Endpoint: manifest.Endpoint{
			EndpointID: testID, Timeout: 2 * time.Second, Concurrency: 10, Fallback: list,
			Breaker: manifest.BreakerPolicy{FailureThreshold: 5, RecoveryTimeout: time.Minute, SuccessThreshold: 3},
		},
		Attempt: 1, Sync: true,
	}
}

func requestWith(payload string, how manifest.Strategy) request {
	return request{call: callWith(payload), how: how, reason: dispatcher.ReasonTimeout}
}

var (
	rejects = manifest.Strategy{Strategy: manifest.StrategyDefault, Handler: manifest.HandlerReject}
	accepts = manifest.Strategy{Strategy: manifest.StrategyDefault, Handler: manifest.HandlerAccept}
	draws   = manifest.Strategy{Strategy: manifest.StrategyDefault, Handler: manifest.HandlerRandomSelection}
	caches  = manifest.Strategy{Strategy: manifest.StrategyCached}
	queues  = manifest.Strategy{Strategy: manifest.StrategyQueue}
	pends   = manifest.Strategy{Strategy: manifest.StrategyPending}
)

func staticValue(value string) manifest.Strategy {
	return manifest.Strategy{Strategy: manifest.StrategyDefault, Handler: manifest.HandlerStatic, Value: json.RawMessage(value)}
}

// app is a handler that answers always the same.
func app(out dispatcher.Outcome) dispatcher.Handler {
	return func(context.Context, dispatcher.Call) dispatcher.Outcome { return out }
}

var down = dispatcher.Outcome{Verdict: dispatcher.Retry, Effect: dispatcher.Failure, Reason: dispatcher.ReasonConnection, Err: errNotJSON}

// bundle is a real broker with the topology.
type bundle struct {
	*testing.T
	ctx context.Context
	srv *natstest.Server
	nc  *nats.Conn
	js  jetstream.JetStream
}

func setup(t *testing.T, opts ...natstest.Option) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	b := &bundle{T: t, ctx: ctx, srv: natstest.Start(t, opts...)}
	b.nc = b.srv.Conn()
	var err error
	b.js, err = jetstream.New(b.nc)
	b.must(err)
	b.must(streams.NewTopology(b.js, streams.Settings{StoreBytes: 1 << 30}).Ensure(t.Context()))
	return b
}

func (b *bundle) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bundle) log() *slog.Logger { return slog.New(slog.NewTextHandler(b.Output(), nil)) }

func (b *bundle) bucket(name string) jetstream.KeyValue {
	b.Helper()
	kv, err := b.js.KeyValue(b.ctx, name)
	b.must(err)
	return kv
}

// eventually polls until the condition holds.
func (b *bundle) eventually(what string, holds func() bool) {
	b.Helper()
	for !holds() {
		select {
		case <-b.ctx.Done():
			b.Fatalf("gave up waiting for %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}
