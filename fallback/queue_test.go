package fallback

import (
	"context"
	"errors"
	"testing"
	"time"

	"backstop/dispatcher"
	"backstop/streams"
)

func TestQueue(t *testing.T) {
	var queued []streams.Event
	cfg := Config{Queue: func(ctx context.Context, e streams.Event) error {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("without a deadline")
		}
		queued = append(queued, e)
		return nil
	}}
	c := callWith(`{"n":  1}`, queues, rejects)
	c.Event.Attempts = 1
	before := time.Now()
	out := Stage(cfg)(app(down))(t.Context(), c)
	if out.Source != streams.SourceQueued || string(out.Data) != `{"id":"call-1","status":"queued"}` || out.Reason != dispatcher.ReasonConnection {
		t.Errorf("%+v", out)
	}
	if len(queued) != 1 {
		t.Fatalf("%d events", len(queued))
	}
	e := queued[0]
	if e.ID != "call-1" || e.EndpointID != testID || string(e.Payload) != `{"n":  1}` || e.TraceParent != "00-parent" || e.TraceState != "a=b" ||
		e.Attempts != 0 || e.PublishedAt.Before(before) {
		t.Errorf("%+v", e)
	}
}

func TestQueueGivesUp(t *testing.T) {
	for _, cfg := range []Config{{}, {Queue: func(context.Context, streams.Event) error { return errors.New("full") }}} {
		out := Stage(cfg)(app(down))(t.Context(), callWith(`{}`, queues, rejects))
		if out.Source != streams.SourceDefault {
			t.Errorf("%+v", out)
		}
	}
}

// A queue that hangs, and doesn't look at its context, holds nobody up.
func TestQueueHangs(t *testing.T) {
	over := make(chan struct{})
	defer close(over)
	cfg := Config{Queue: func(context.Context, streams.Event) error { <-over; return nil }}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	out := Stage(cfg)(app(down))(ctx, callWith(`{}`, queues, rejects))
	if out.Source != streams.SourceDefault {
		t.Errorf("%+v", out)
	}
}
