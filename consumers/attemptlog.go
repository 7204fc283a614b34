package consumers

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/dispatcher"
	"backstop/streams"
)

// How the delivery log is written: in batches with one sync each, and never in
// the way of an event.
const (
	attemptBuffer = 16_384
	attemptBatch  = streams.MaxBatch
	attemptDelay  = 200 * time.Millisecond
)

// AttemptLog writes the delivery log. Put Log around
// dispatcher.Measure, which takes an attempt's time; put LogCall around what
// answers calls, fallbacks included; and run Run beside the pipeline. When the broker can't keep up, entries are dropped and counted;
// events and calls are not affected.
type AttemptLog struct {
	nc      *nats.Conn
	log     *slog.Logger
	entries chan streams.Attempt
	dropped atomic.Uint64
}

// NewAttemptLog returns a log that writes through nc.
func NewAttemptLog(nc *nats.Conn, log *slog.Logger) *AttemptLog {
	return &AttemptLog{nc: nc, log: log, entries: make(chan streams.Attempt, attemptBuffer)}
}

// Dropped is how many entries were dropped since the start.
func (l *AttemptLog) Dropped() uint64 { return l.dropped.Load() }

// Log returns the stage that records each attempt once its Duration is known.
// Within LogCall it leaves that to LogCall.
func (l *AttemptLog) Log() dispatcher.Stage {
	return func(next dispatcher.Handler) dispatcher.Handler {
		return func(ctx context.Context, c dispatcher.Call) dispatcher.Outcome {
			out := next(ctx, c)
			if a, ok := ctx.Value(attemptKey{}).(*callAttempt); ok {
				a.out, a.number, a.made = out, c.Attempt, true
			} else {
				l.record(entryOf(c, out))
			}
			return out
		}
	}
}

// LogCall returns the stage that records each call, with who answered it: one
// entry for the attempt at the app, if there was one, and what stood in for it.
func (l *AttemptLog) LogCall() dispatcher.Stage {
	return func(next dispatcher.Handler) dispatcher.Handler {
		return func(ctx context.Context, c dispatcher.Call) dispatcher.Outcome {
			a := &callAttempt{number: c.Attempt}
			out := next(context.WithValue(ctx, attemptKey{}, a), c)
			if !a.made { // whatever answered didn't even try
				a.out = out
				a.out.Requested = false
			}
			c.Attempt = a.number
			entry := entryOf(c, a.out)
			entry.Source = sourceOf(out)
			if !a.made {
				entry.Verdict, entry.Success = dispatcher.Refused.String(), false
			}
			l.record(entry)
			return out
		}
	}
}

// attemptKey is the context's key of the callAttempt.
type attemptKey struct{}

// callAttempt is what Log hands out to LogCall.
type callAttempt struct {
	out    dispatcher.Outcome
	number int
	made   bool
}

// sourceOf says who answered a call.
func sourceOf(out dispatcher.Outcome) streams.Source {
	switch {
	case out.Source != "":
		return out.Source
	case out.Accepted:
		return streams.SourcePending
	case out.Verdict == dispatcher.Delivered, out.Verdict == dispatcher.Rejected && out.AppError != nil:
		return streams.SourceApp
	default:
		return streams.SourceNone
	}
}

// entryOf describes an attempt.
func entryOf(c dispatcher.Call, out dispatcher.Outcome) streams.Attempt {
	entry := streams.Attempt{
		ID: c.Event.ID, App: c.Endpoint.App, Capability: c.Endpoint.Capability, Time: time.Now().Add(-out.Duration).UTC(),
		Attempt: c.Attempt, DurationMs: float64(out.Duration.Microseconds()) / 1000,
		Call: c.Sync, Requested: out.Requested, Success: out.Verdict == dispatcher.Delivered,
		Verdict: out.Verdict.String(), Reason: string(out.Reason), Status: out.Status, TimedOut: out.Reason == dispatcher.ReasonTimeout,
	}
	if c.Sync {
		entry.Source = sourceOf(out)
		// An app that says no to a call has answered it.
		entry.Success = entry.Success || entry.Source == streams.SourceApp
	}
	if out.Err != nil {
		entry.Error = out.Err.Error()
	}
	if out.AppError != nil { // then the error quotes it
		entry.Error = redact(entry.Error)
	}
	if len(out.Body) > 0 {
		entry.Answer = redactAnswer(out.Body)
	}
	return entry
}

// record queues an entry. It never blocks.
func (l *AttemptLog) record(entry streams.Attempt) {
	select {
	case l.entries <- entry:
	default:
		l.dropped.Add(1)
	}
}

// Run writes until ctx ends, and then what is left.
func (l *AttemptLog) Run(ctx context.Context) error {
	batch := make([]*nats.Msg, 0, attemptBatch)
	for {
		batch = l.collect(ctx, batch[:0])
		if len(batch) > 0 {
			l.write(batch)
		}
		if ctx.Err() != nil && len(l.entries) == 0 {
			return nil
		}
	}
}

// collect waits for a first entry, and then for more until the batch is full
// or attemptDelay is over.
func (l *AttemptLog) collect(ctx context.Context, batch []*nats.Msg) []*nats.Msg {
	stop := ctx.Done()
	var late <-chan time.Time
	for len(batch) < attemptBatch {
		select {
		case entry := <-l.entries:
			msg, err := entry.Msg()
			if err != nil {
				l.log.Warn("an entry of the delivery log can't be written", "error", err)
				continue
			}
			batch = append(batch, msg)
			if late == nil {
				late = time.After(attemptDelay)
			}
		case <-late:
			return batch
		case <-stop:
			if len(l.entries) == 0 {
				return batch
			}
			stop = nil // take what is left, without waiting for more
			late = time.After(0)
		}
	}
	return batch
}

func (l *AttemptLog) write(batch []*nats.Msg) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if err := streams.PublishBatch(ctx, l.nc, batch); err != nil {
		l.dropped.Add(uint64(len(batch)))
		l.log.Warn("entries of the delivery log were dropped", "count", len(batch), "error", err)
	}
}
