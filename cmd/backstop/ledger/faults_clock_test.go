//go:build e2e

package ledger

import (
	"fmt"
	"strings"
	"time"

	"backstop/streams"
)

// setClocks sets the wall clock of one replica, or of everybody, so far ahead
// of the true one. The fault is the moment: a clock that is wrong explains nothing
// that happens later.
func (w *world) setClocks(who int, ahead time.Duration) {
	now := time.Now()
	w.faults.add(fault{fmt.Sprintf("clock of %s set to %+v", nameOf(who), ahead), now, now, who == everybody})
	w.mu.Lock()
	w.clocks = append(w.clocks, ahead)
	w.mu.Unlock()
	for i, r := range w.replicas {
		if who == everybody || who == i {
			r.dials.setClock(ahead)
		}
	}
	if who == everybody {
		for _, n := range w.nodes {
			n.dials.setClock(ahead)
		}
	}
}

func nameOf(who int) string {
	if who == everybody {
		return "everybody"
	}
	return fmt.Sprintf("replica%d", who+1)
}

// checkExpired looks whether a replica took events for older than they were
// because its own clock was wrong. When NATS's jumps with it, they are that old.
func (w *world) checkExpired(b *books) {
	for _, f := range b.faults {
		if strings.HasPrefix(f.what, "clock of "+nameOf(everybody)) {
			return
		}
	}
	const almost = maxAge - time.Second // clocks have whole seconds here
	for t, letters := range b.letters {
		for _, l := range letters {
			old := l.Reason != streams.Expired
			for _, ahead := range append([]time.Duration{0}, b.clocks...) {
				age := l.FailedAt.Sub(l.PublishedAt) - ahead
				old = old || age > almost && age < runTimeout
			}
			if !old {
				b.problem("event %s at %s, published at %s, was dead-lettered as expired %v later by the clock of who did it", t.id, t.EndpointID, clock(l.PublishedAt), l.FailedAt.Sub(l.PublishedAt))
			}
		}
	}
}
