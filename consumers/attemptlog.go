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

// How the delivery log is written: many entries at a time, and never in the way
// of an event.
const (
	attemptBuffer = 16_384
	attemptBatch  = 500
	attemptDelay  = 200 * time.Millisecond
)

// AttemptLog writes the delivery log. Give Record to dispatcher.Measure and run
// Run beside the pipeline. When the broker can't keep up, entries are dropped
// and counted; events are not affected.
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

// Record queues the entry of one attempt. It never blocks.
func (l *AttemptLog) Record(c dispatcher.Call, out dispatcher.Outcome) {
	select {
	case l.entries <- entryOf(c, out):
	default:
		l.dropped.Add(1)
	}
}

// entryOf describes an attempt.
func entryOf(c dispatcher.Call, out dispatcher.Outcome) streams.Attempt {
	entry := streams.Attempt{
		ID: c.Event.ID, App: c.Endpoint.App, Capability: c.Endpoint.Capability, Time: time.Now().Add(-out.Duration).UTC(),
		Attempt: c.Attempt, DurationMs: float64(out.Duration.Microseconds()) / 1000,
		Call: c.Sync, Requested: out.Requested, Success: success(c, out),
		Verdict: out.Verdict.String(), Reason: string(out.Reason), Status: out.Status, TimedOut: out.Reason == dispatcher.ReasonTimeout,
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

// success tells whether the app did its part. One that says no to a call has
// answered it; an event to which it says no becomes a dead letter.
func success(c dispatcher.Call, out dispatcher.Outcome) bool {
	return out.Verdict == dispatcher.Delivered || c.Sync && out.Verdict == dispatcher.Rejected && out.AppError != nil
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
	if err := streams.PublishRun(ctx, l.nc, batch); err != nil {
		l.dropped.Add(uint64(len(batch)))
		l.log.Warn("entries of the delivery log were dropped", "count", len(batch), "error", err)
	}
}
