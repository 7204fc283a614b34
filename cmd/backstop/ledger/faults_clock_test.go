//go:build e2e

package ledger

import (
	"fmt"
	"time"
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
