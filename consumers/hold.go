package consumers

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// holds are the messages of one consumer that this process has been handed and
// has not settled. They are marked as in progress until they are, so that the
// ack wait can be short: it then only ends for what a dead process held.
//
// The broker may hand out again what is still held, when a mark was late. Such
// a second delivery is dropped; settling the first settles the message.
type holds struct {
	mu    sync.Mutex
	bySeq map[uint64]hold
	size  int           // bytes of their payloads
	total *atomic.Int64 // of all that share a limit with these
	freed chan struct{} // one token after each release
}

type hold struct {
	msg   jetstream.Msg
	since time.Time
}

func newHolds(total *atomic.Int64) *holds {
	return &holds{bySeq: make(map[uint64]hold), total: total, freed: make(chan struct{}, 1)}
}

// add takes charge of a message; false means that it is held already.
func (h *holds) add(seq uint64, msg jetstream.Msg) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, held := h.bySeq[seq]; held {
		return false
	}
	h.bySeq[seq] = hold{msg: msg, since: time.Now()}
	h.grow(len(msg.Data()))
	return true
}

// release gives a message up, settled or not.
func (h *holds) release(seq uint64) {
	h.mu.Lock()
	if held, ok := h.bySeq[seq]; ok {
		h.grow(-len(held.msg.Data()))
		delete(h.bySeq, seq)
	}
	h.mu.Unlock()
	select {
	case h.freed <- struct{}{}:
	default:
	}
}

// grow counts bytes. The lock is held.
func (h *holds) grow(by int) {
	h.size += by
	h.total.Add(int64(by))
}

// held is how many messages are held, and how many bytes their payloads have.
func (h *holds) held() (count, bytes int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.bySeq), h.size
}

// markEvery is how often holds are marked as in progress. What is settled
// sooner than this costs no mark at all.
const markEvery = streams.AckWait / 3

// run marks what has been held for longer than markEvery, until ctx ends.
func (h *holds) run(ctx context.Context) {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	var due []jetstream.Msg
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			due = due[:0]
			h.mu.Lock()
			for _, held := range h.bySeq {
				// Half a period early, so that no message waits two periods
				// for its first mark.
				if now.Sub(held.since) > markEvery/2 {
					due = append(due, held.msg)
				}
			}
			h.mu.Unlock()
			for _, msg := range due {
				// An error means that the connection is closing, or that the
				// message was settled since; either way there's nothing to do.
				_ = msg.InProgress()
			}
		}
	}
}
