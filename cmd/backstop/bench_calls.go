package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/cmd/backstop/bench"
	"backstop/streams"
)

// calls measures what a call takes beside a bare HTTP request to the same
// receiver, over NATS on loopback TCP, and how soon an open circuit answers.
func (r *benchRun) calls(ctx context.Context) error {
	return r.within(ctx, "always", func(ctx context.Context, t bench.Target) error {
		const capability = "benchCall"
		up := streams.EndpointID{Capability: capability, App: "up"}
		down := streams.EndpointID{Capability: capability, App: "down"}
		for id, url := range map[streams.EndpointID]string{up: r.receiver.OK(), down: "http://127.0.0.1:1"} {
			if err := t.Apply(ctx, id.App, url, false, capability); err != nil {
				return err
			}
		}
		for _, callers := range []int{1, 64} {
			bare, idle := bench.BarePost(r.receiver.OK()+"/bare", callers)
			quiet, err := bench.Repeat(ctx, callers, r.span, bare)
			idle()
			if err != nil {
				return err
			}
			r.add(benchRow{Scenario: "calls", What: fmt.Sprintf("bare HTTP, %d at once", callers), Tally: &quiet})
			tally, err := bench.Repeat(ctx, callers, r.span, call(t.NC, up, streams.SourceApp))
			if err != nil {
				return err
			}
			r.add(benchRow{Scenario: "calls", What: fmt.Sprintf("a call, %d at once", callers), Tally: &tally, Ratio: float64(tally.P50) / float64(quiet.P50)})
		}
		for range 10 { // opens the circuit
			if err := call(t.NC, down, streams.SourceNone)(ctx); err != nil {
				return err
			}
		}
		for _, callers := range []int{1, 64} {
			tally, err := bench.Repeat(ctx, callers, r.span, call(t.NC, down, streams.SourceNone))
			if err != nil {
				return err
			}
			r.add(benchRow{Scenario: "calls", What: fmt.Sprintf("open circuit, %d at once", callers), Tally: &tally})
		}
		return nil
	})
}

// call makes one call; an answer from anywhere but the given source is an error.
func call(nc *nats.Conn, to streams.EndpointID, want streams.Source) func(context.Context) error {
	return func(ctx context.Context) error {
		msg, err := nc.RequestWithContext(ctx, to.Subject(streams.Calls), bench.Payload(time.Now()))
		if err != nil {
			return err
		}
		var reply streams.Reply
		if err := json.Unmarshal(msg.Data, &reply); err != nil {
			return err
		}
		if reply.Source != want {
			return fmt.Errorf("a call was answered by %s (%s), not by %s", reply.Source, reply.Reason, want)
		}
		return nil
	}
}
