package consumers

import (
	"context"
	"sync"
	"time"
)

// spiller watches the mailboxes in which something waits, and parks what has
// waited too long: an endpoint that hangs sends no event that would notice.
type spiller struct {
	park func(*endpoint, *delivery)

	mu      sync.Mutex
	waiting map[*endpoint]struct{}
}

func newSpiller(park func(*endpoint, *delivery)) *spiller {
	return &spiller{park: park, waiting: make(map[*endpoint]struct{})}
}

// watch looks after an endpoint whose queue was empty until now.
func (s *spiller) watch(e *endpoint) {
	s.mu.Lock()
	s.waiting[e] = struct{}{}
	s.mu.Unlock()
}

// run looks every quarter of the mailboxes' patience, until ctx ends.
func (s *spiller) run(ctx context.Context) {
	tick := time.NewTicker(mailboxPatience / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.look(now)
		}
	}
}

func (s *spiller) look(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := range s.waiting {
		spilt, more := e.box.spill(now)
		for _, d := range spilt {
			s.park(e, d)
		}
		if !more {
			// A queue that fills again from here on says so through watch,
			// which waits for this lock.
			delete(s.waiting, e)
		}
	}
}
