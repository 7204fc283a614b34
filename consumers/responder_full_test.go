package consumers

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// TestCallAboveTheMost: a replica that has as many calls in hand as it takes
// says so at once, with the id that its caller knows the call by.
func TestCallAboveTheMost(t *testing.T) {
	srv := natstest.Start(t)
	nc := srv.Conn()
	p := &Pipeline{cfg: Config{Replica: "r1"}, log: slog.New(slog.DiscardHandler), observe: noObserver{}}
	p.fleet = newFleet(p.cfg, nil, nil)
	r := newResponder(p, srv.Conn())
	r.inHand = maxCalls
	ctx, cancel := context.WithCancel(t.Context())
	up := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.run(ctx, func() { close(up) }); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()
	defer func() { // or it would wait for those calls
		r.mu.Lock()
		r.inHand = 0
		r.mu.Unlock()
	}()
	<-up
	msg := nats.NewMsg("calls.score.quiz")
	msg.Data = []byte(`{}`)
	msg.Header.Set(streams.HeaderMsgID, "call-1")
	answer, err := nc.RequestMsg(msg, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var reply streams.Reply
	if err := json.Unmarshal(answer.Data, &reply); err != nil {
		t.Fatal(err)
	}
	if reply.Success || reply.Error.Code != streams.CodeAppBusy || reply.Reason != "saturated" || reply.RequestID != "call-1" {
		t.Errorf("got %s", answer.Data)
	}
}
