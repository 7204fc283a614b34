//go:build e2e

package ledger

import (
	"context"
	"syscall"
	"time"

	"backstop/streams"
)

// strike does what the plan says, one thing after the other.
func (w *world) strike() {
	began := time.Now()
	for _, b := range w.plan.blows {
		pause(w.ctx, time.Until(began.Add(b.at)))
		if w.ctx.Err() != nil {
			return
		}
		w.strikeOnce(b)
	}
}

func (w *world) strikeOnce(b blow) {
	r := w.replicas[b.who%len(w.replicas)]
	switch b.what {
	case "kill":
		r.killWith(b.arm) // keep says from when until when it was away
	case "stop":
		w.fault(r.name+" stopped", w.embeds(), func() {
			r.signal(syscall.SIGSTOP)
			pause(w.ctx, b.long)
			r.signal(syscall.SIGCONT)
			pause(w.ctx, time.Second) // what it had in hand, it settles now
		})
	case "terminate":
		r.killWith(b.arm)
		pause(w.ctx, 1500*time.Millisecond)
		r.mayEnd.Store(true)
		r.signal(syscall.SIGTERM) // and the next is killed at the very end of its shutdown
	case "kill nats":
		w.restart(b.what, b.long, w.nodes[0])
	case "kill node":
		w.restart(b.what, b.long, w.nodes[b.who])
	case "kill all nodes":
		w.restart(b.what, b.long, w.nodes...)
	case "kill leader":
		w.restart(b.what, b.long, w.leader())
	case "power":
		w.powerLoss(r, b.long)
	case "fill":
		w.diskFull(r, b.long)
	case "part":
		w.part(b.long)
	default:
		w.problem("the rig can't %s", b.what)
	}
}

// restart kills servers and starts them again after a while.
func (w *world) restart(what string, after time.Duration, nodes ...*node) {
	w.fault(what, true, func() {
		for _, n := range nodes {
			n.kill()
		}
		pause(w.ctx, after)
		for _, n := range nodes {
			n.start()
		}
		for _, n := range nodes {
			n.await()
		}
		pause(w.ctx, time.Second) // until everybody is connected again
	})
}

// leader is the server that leads the stream that most events are in.
func (w *world) leader() *node {
	nc, js := w.connect()
	defer nc.Close()
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, time.Second)
		stream, err := js.Stream(try, streams.EventStream(capability))
		cancel()
		if err == nil && stream.CachedInfo().Cluster != nil {
			for _, n := range w.nodes {
				if n.name == stream.CachedInfo().Cluster.Leader {
					return n
				}
			}
		}
		pause(ctx, 50*time.Millisecond)
	}
	return w.nodes[0] // there is none at the moment
}
