//go:build e2e

package ledger

import (
	"fmt"
	"time"
)

// setDisks has each sync to disk take so much longer, for everybody. What was
// waiting for one is a little late, and acknowledgements with it.
func (w *world) setDisks(longer time.Duration) {
	now := time.Now()
	w.faults.add(fault{fmt.Sprintf("syncs %v longer", longer), now, now, true})
	for _, r := range w.replicas {
		r.dials.setSync(longer)
	}
	for _, n := range w.nodes {
		n.dials.setSync(longer)
	}
}
