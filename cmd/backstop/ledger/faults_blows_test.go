//go:build e2e

package ledger

import (
	"context"
	"encoding/json"
	"net/http"
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
	r := w.replicas[max(b.who, 0)%len(w.replicas)]
	switch b.what {
	case "clock":
		w.setClocks(b.who, b.turn)
	case "slow disk":
		w.slowDisk(b.turn)
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
	case "split node":
		w.split(w.nodes[b.who], b.long)
	case "split leader":
		w.split(w.leader(), b.long)
	case "split meta leader":
		w.split(w.metaLeader(), b.long)
	case "power":
		w.powerLoss(r, b.long)
	case "power of a node":
		w.nodesLosePower(b.what, b.long, w.nodes[b.who])
	case "power of the leader":
		w.nodesLosePower(b.what, b.long, w.leader())
	case "power of all nodes":
		w.nodesLosePower(b.what, b.long, w.nodes...)
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
		w.startAgain(nodes...)
	})
}

// startAgain starts servers that have ended.
func (w *world) startAgain(nodes ...*node) {
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes {
		n.await()
	}
	pause(w.ctx, time.Second) // until everybody is connected again
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

// metaLeader is the server that decides where streams are.
func (w *world) metaLeader() *node {
	var told struct {
		Meta struct {
			Leader string `json:"leader"`
		} `json:"meta_cluster"`
	}
	for _, n := range w.nodes {
		req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, "http://"+n.monitor+"/jsz", nil)
		w.must(err)
		if resp, err := w.client.Do(req); err == nil {
			_ = json.NewDecoder(resp.Body).Decode(&told)
			_ = resp.Body.Close()
		}
		for _, leader := range w.nodes {
			if leader.name == told.Meta.Leader {
				return leader
			}
		}
	}
	return w.nodes[0] // there is none at the moment
}
