package fallback

import (
	"context"
	"testing"
	"time"

	"backstop/streams"
)

func TestPending(t *testing.T) {
	b := setup(t)
	store := streams.NewPendings(b.bucket(streams.PendingBucket))
	h := Stage(Config{Pendings: store})(app(down))
	for range 2 { // the same call twice is one request
		c := callWith(`{"n":  "<1>"}`, pends)
		c.Endpoint.Timeout = 20 * time.Second
		out := h(b.ctx, c)
		if out.Source != streams.SourcePending || string(out.Data) != `{"id":"call-1","status":"pending"}` {
			t.Fatalf("%+v", out)
		}
	}
	all, err := store.List(b.ctx)
	b.must(err)
	if len(all) != 1 {
		t.Fatalf("%d requests", len(all))
	}
	r := all[0]
	if r.ID != "call-1" || r.EndpointID() != testID || string(r.Payload) != `{"n":  "<1>"}` || r.Reason != "connection" ||
		r.State != streams.PendingWaiting || r.TraceParent != "00-parent" || r.TraceState != "a=b" {
		t.Errorf("%+v", r)
	}
}

func TestPendingGivesUp(t *testing.T) {
	b := setup(t)
	store := streams.NewPendings(b.bucket(streams.PendingBucket))
	b.srv.Stop()
	for _, cfg := range []Config{{}, {Pendings: store}} {
		ctx, cancel := context.WithTimeout(b.ctx, 300*time.Millisecond)
		out := Stage(cfg)(app(down))(ctx, callWith(`{}`, pends, rejects))
		if out.Source != streams.SourceDefault { // in time is what deadline_test.go is about
			t.Errorf("%+v", out)
		}
		cancel()
	}
}
