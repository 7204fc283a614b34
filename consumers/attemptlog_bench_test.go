package consumers

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"backstop/dispatcher"
	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/manifest"
)

// What the delivery log costs, and what adding it up costs on top, in time of
// the processor (the broker's included) rather than of the clock: the machine
// may be busy with something else.
func BenchmarkDeliveryLog(b *testing.B) {
	for _, folded := range []bool{false, true} {
		name := "written"
		if folded {
			name = "written and added up"
		}
		b.Run(name, func(b *testing.B) { benchmarkLog(b, folded) })
	}
}

func benchmarkLog(b *testing.B, folded bool) {
	b.Helper()
	srv := natstest.Start(b, natstest.SyncAlways())
	js := srv.JetStream()
	ctx, cancel := context.WithCancel(b.Context())
	if err := streams.NewTopology(js, streams.Settings{StoreBytes: 64 << 30}).Ensure(ctx); err != nil {
		b.Fatal(err)
	}
	l := NewAttemptLog(js.Conn(), slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) })
	f := &folder{js: js, log: slog.New(slog.NewTextHandler(b.Output(), nil))}
	if folded {
		running.Go(func() { f.run(ctx) })
	}
	handler := dispatcher.Chain(func(context.Context, dispatcher.Call) dispatcher.Outcome {
		return dispatcher.Outcome{Verdict: dispatcher.Delivered, Status: 200, Requested: true, Duration: 1234567}
	}, dispatcher.Measure(nil, l.Record))
	calls := make([]dispatcher.Call, 100)
	for i := range calls {
		id := streams.EndpointID{Capability: "analytics", App: "app" + strconv.Itoa(i)}
		calls[i] = dispatcher.Call{Event: streams.Event{ID: "6Fh2kT0aPqRsTuVwXyZ01" + strconv.Itoa(i)}, Endpoint: manifest.Endpoint{EndpointID: id}, Attempt: 1}
	}
	before := processorTime(b)
	b.ResetTimer()
	for i := range b.N {
		for len(l.entries) > attemptBuffer/2 {
			<-time.After(time.Millisecond)
		}
		handler(ctx, calls[i%len(calls)])
	}
	stream, err := js.Stream(ctx, streams.AttemptStream)
	if err != nil {
		b.Fatal(err)
	}
	for {
		info, err := stream.Info(ctx)
		if err == nil && info.State.LastSeq+l.Dropped() >= uint64(b.N) && (!folded || b.N < foldBatch || f.folded.Load() >= info.State.LastSeq) {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/entry")
	cancel()
	running.Wait()
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
