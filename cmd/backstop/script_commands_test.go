package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"backstop/embedded"
	"backstop/streams"
	"backstop/streams/secrets"
)

// cmdNATS starts a NATS server for the script and points NATS_URL at it:
// nats [token].
func cmdNATS(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	cfg := embedded.Config{DataDir: ts.MkAbs("nats"), Addr: "127.0.0.1:0", Sync: "1h", Logger: slog.New(slog.DiscardHandler)}
	if len(args) == 1 {
		cfg.Token = args[0]
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	srv, err := embedded.Start(ctx, cfg)
	ts.Check(err)
	ts.Defer(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel() // a context that is over skips the wait for clients
		srv.Shutdown(now)
	})
	ts.Setenv("NATS_URL", srv.ClientURL())
}

// cmdTopology makes what `serve` makes at its start: topology CAPABILITY…
func cmdTopology(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	ctx, js := scriptJetStream(ts)
	topology := streams.NewTopology(js, streams.Settings{StoreBytes: 1 << 30, AllowedNetworks: "127.0.0.0/8"})
	ts.Check(topology.Ensure(ctx))
	for _, capability := range args {
		ts.Check(topology.EnsureCapability(ctx, capability))
	}
}

// cmdDeadLetter stores a dead letter: deadletter ID CAPABILITY APP REASON AGE [FILE].
// Without a file the payload is {}; an APP of "-" stands for a broadcast.
func cmdDeadLetter(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) < 5 {
		ts.Fatalf("usage: deadletter ID CAPABILITY APP REASON AGE [FILE]")
	}
	age, err := time.ParseDuration(args[4])
	ts.Check(err)
	d := streams.DeadLetter{
		Event: streams.Event{
			ID: args[0], EndpointID: streams.EndpointID{Capability: args[1], App: args[2]},
			Payload: []byte("{}"), PublishedAt: time.Now().Add(-age - time.Minute), Attempts: 3,
		},
		Reason: streams.DeadLetterReason(args[3]), Err: "503 Service Unavailable", Status: 503, FailedAt: time.Now().Add(-age),
	}
	d.Origin = d.ID
	if d.App == "-" {
		d.App = ""
	}
	if len(args) == 6 {
		d.Payload = []byte(ts.ReadFile(args[5]))
	}
	ctx, js := scriptJetStream(ts)
	ts.Check(streams.NewDeadLetters(js).Store(ctx, d))
}

// cmdGate records a gate as the pipeline does: gate CAPABILITY APP STATE.
func cmdGate(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 3 {
		ts.Fatalf("usage: gate CAPABILITY APP STATE")
	}
	ctx, js := scriptJetStream(ts)
	kv, err := js.KeyValue(ctx, streams.BreakersBucket)
	ts.Check(err)
	g := streams.Gate{Capability: args[0], App: args[1], State: streams.GateState(args[2]), Since: time.Now(), Reason: "5 failures in a row", By: "replica-1"}
	if g.State == streams.GateOpen {
		g.Until = time.Now().Add(time.Minute)
	}
	ts.Check(streams.NewGates(kv).Set(ctx, g))
}

// cmdHealth records a health check as the pipeline does: health APP STATE [STATUS].
func cmdHealth(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) < 2 {
		ts.Fatalf("usage: health APP STATE [STATUS]")
	}
	ctx, js := scriptJetStream(ts)
	kv, err := js.KeyValue(ctx, streams.HealthBucket)
	ts.Check(err)
	now := time.Now()
	h := streams.Health{
		App: args[0], State: streams.HealthState(args[1]), Result: streams.HealthState(args[1]),
		Since: now.Add(-3 * time.Hour), CheckedAt: now.Add(-2 * time.Hour), Metrics: streams.MetricsMissing,
	}
	if len(args) == 3 {
		h.Error = "the app answered " + args[2]
	}
	_, err = streams.NewHealths(kv).Put(ctx, h)
	ts.Check(err)
}

// cmdLane parks events in an endpoint's own lane, paused for a time:
// lane CAPABILITY APP EVENTS PAUSE.
func cmdLane(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 4 {
		ts.Fatalf("usage: lane CAPABILITY APP EVENTS PAUSE")
	}
	id := streams.EndpointID{Capability: args[0], App: args[1]}
	events, err := strconv.Atoi(args[2])
	ts.Check(err)
	pause, err := time.ParseDuration(args[3])
	ts.Check(err)
	var until time.Time
	if pause > 0 {
		until = time.Now().Add(pause)
	}
	ctx, js := scriptJetStream(ts)
	_, err = js.CreateOrUpdateConsumer(ctx, streams.LaneStream, id.LaneConfig(until))
	ts.Check(err)
	for n := range events {
		e := streams.Event{ID: "e", Origin: strconv.Itoa(n), EndpointID: id, Payload: []byte("{}"), PublishedAt: time.Now()}
		_, err := js.PublishMsg(ctx, e.LaneMsg())
		ts.Check(err)
	}
}

// cmdConsumers prints how many consumers a stream has: consumers STREAM.
func cmdConsumers(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 1 {
		ts.Fatalf("usage: consumers STREAM")
	}
	ctx, js := scriptJetStream(ts)
	stream, err := js.Stream(ctx, args[0])
	ts.Check(err)
	_, err = fmt.Fprintln(ts.Stdout(), stream.CachedInfo().State.Consumers)
	ts.Check(err)
}

// cmdNotices prints the notices of a kind, for stdout: notices KIND.
func cmdNotices(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 1 {
		ts.Fatalf("usage: notices KIND")
	}
	ctx, js := scriptJetStream(ts)
	stream, err := js.Stream(ctx, streams.NoticeStream)
	ts.Check(err)
	for next := uint64(1); ; {
		msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(streams.NoticeSubject(args[0])))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return
		}
		ts.Check(err)
		_, err = fmt.Fprintf(ts.Stdout(), "%s\n", msg.Data)
		ts.Check(err)
		next = msg.Sequence + 1
	}
}

// cmdKey publishes the key that seals secrets, as `serve` does: key.
func cmdKey(ts *testscript.TestScript, neg bool, _ []string) {
	noNegation(ts, neg)
	ctx, js := scriptJetStream(ts)
	kv, err := js.KeyValue(ctx, streams.SecretsBucket)
	ts.Check(err)
	key, err := secrets.LoadOrCreateKey(ts.MkAbs("secrets.key"))
	ts.Check(err)
	ts.Check(secrets.Publish(ctx, kv, key))
}

// cmdOrphan stores a secret without an app, as an apply that was cut short
// leaves it: orphan APP.
func cmdOrphan(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 1 {
		ts.Fatalf("usage: orphan APP")
	}
	ctx, js := scriptJetStream(ts)
	kv, err := js.KeyValue(ctx, streams.SecretsBucket)
	ts.Check(err)
	ts.Check(secrets.NewStore(kv).Create(ctx, args[0], secrets.Generate()))
}

// cmdRetire does what the pipeline does when no app declares a capability any
// more: retire CAPABILITY.
func cmdRetire(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 1 {
		ts.Fatalf("usage: retire CAPABILITY")
	}
	ctx, js := scriptJetStream(ts)
	ts.Check(streams.NewTopology(js, streams.Settings{StoreBytes: 1 << 30}).RetireCapability(ctx, args[0]))
}

// cmdSecrets prints what a pipeline signs an app's webhooks with, newest
// first, for stdout, and sets SECRET to the newest: secrets APP.
func cmdSecrets(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 1 {
		ts.Fatalf("usage: secrets APP")
	}
	ctx, js := scriptJetStream(ts)
	kv, err := js.KeyValue(ctx, streams.SecretsBucket)
	ts.Check(err)
	key, err := secrets.LoadOrCreateKey(ts.MkAbs("secrets.key"))
	ts.Check(err)
	ring := secrets.NewKeyring(key, kv, nil)
	ctx, loaded := context.WithCancel(ctx)
	ts.Check(ring.Run(ctx, loaded))
	for i, secret := range ring.Active(args[0], time.Now()) {
		if i == 0 {
			ts.Setenv("SECRET", secret)
		}
		_, err := fmt.Fprintln(ts.Stdout(), secret)
		ts.Check(err)
	}
}

// cmdExits runs a command and checks its exit code: exits CODE PROGRAM ARGS…
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func noNegation(ts *testscript.TestScript, neg bool) {
	if neg {
		ts.Fatalf("this command can't be negated")
	}
}

// scriptJetStream connects to the script's NATS until the script ends.
func scriptJetStream(ts *testscript.TestScript) (context.Context, jetstream.JetStream) {
	var options []nats.Option
	if token := ts.Getenv("NATS_TOKEN"); token != "" {
		options = append(options, nats.Token(token))
	}
	nc, err := nats.Connect(ts.Getenv("NATS_URL"), options...)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	ts.Defer(func() { cancel(); nc.Close() })
	js, err := jetstream.New(nc)
	ts.Check(err)
	return ctx, js
}

// cmdPend stores a call that waits for a person: pend CAPABILITY APP ID JSON.
func cmdPend(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 4 {
		ts.Fatalf("usage: pend CAPABILITY APP ID JSON")
	}
	ctx, js := scriptJetStream(ts)
	kv, err := js.KeyValue(ctx, streams.PendingBucket)
	ts.Check(err)
	_, err = streams.NewPendings(kv).Create(ctx, streams.PendingRequest{
		Capability: args[0], App: args[1], ID: args[2], Payload: []byte(args[3]), Reason: "timeout",
	})
	ts.Check(err)
}
