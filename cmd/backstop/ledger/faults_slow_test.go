//go:build e2e

package ledger

import (
	"fmt"
	"time"
)

// slowDisk has each sync to disk take so much longer, for everybody, until it
// is set to nothing. Meanwhile acknowledgements wait for the disk, and for an
// event whose own is late the ack wait may end.
func (w *world) slowDisk(longer time.Duration) {
	for _, r := range w.replicas {
		r.dials.setSync(longer)
	}
	for _, n := range w.nodes {
		n.dials.setSync(longer)
	}
	if longer > 0 {
		w.slow = fault{what: fmt.Sprintf("syncs %v longer", longer), from: time.Now(), server: true}
		return
	}
	w.slow.to = time.Now()
	w.faults.add(w.slow)
}
