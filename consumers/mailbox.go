package consumers

import (
	"sync"
	"time"
)

// How much of a healthy endpoint's traffic may wait in this process, and how long.
const (
	// mailboxSize is the most events that wait for an endpoint: a burst that a
	// fast app works off within a fraction of a second.
	mailboxSize = 1024
	// mailboxPatience is how long the first of them may wait before the
	// endpoint counts as in trouble and its events move to a lane of its own.
	// It is well below the ack wait, and short enough that a hanging endpoint
	// holds no memory to speak of.
	mailboxPatience = time.Second
)

// placed is what a mailbox did with an event.
type placed int

const (
	started     placed = iota // it is in flight
	queued                    // it waits
	queuedFirst               // it waits and is the first to: somebody has to watch (see spill)
	moving                    // not taken: full, but moving; there is room in a moment
	refused                   // not taken: it belongs in the endpoint's own lane
)

// mailbox queues the events of one endpoint and runs as many at once as the
// endpoint's window allows. It has no goroutine while nothing is in flight, so
// that an idle endpoint costs a struct.
type mailbox struct {
	window func() int      // how many may be in flight now
	run    func(*delivery) // makes one attempt and settles it
	busy   *sync.WaitGroup // counts runs, for the owner to wait for

	mu      sync.Mutex
	queue   []*delivery // in order; queue[0] is next
	running int
	closed  bool
	// diverted sends events to the endpoint's own lane instead.
	diverted bool
	freed    chan struct{} // one token whenever a run ends, for the own lane
	room     chan struct{} // one token whenever the queue shrinks, for a pull that waits
}

func newMailbox(window func() int, run func(*delivery), busy *sync.WaitGroup) *mailbox {
	return &mailbox{window: window, run: run, busy: busy, freed: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// put starts the event, or queues it, or says why not. An endpoint whose
// mailbox is full or stale becomes diverted, unless it moves and may is true:
// then the caller may wait for room and put the event again.
func (m *mailbox) put(d *delivery, may bool) placed {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	switch {
	case m.diverted, m.closed:
		return refused
	case len(m.queue) == 0 && m.running < m.window():
		m.start(d)
		return started
	case len(m.queue) >= mailboxSize && may && !m.stale(now):
		return moving
	case len(m.queue) >= mailboxSize, m.stale(now):
		m.diverted = true
		return refused
	}
	m.queue = append(m.queue, d)
	if len(m.queue) == 1 {
		return queuedFirst
	}
	return queued
}

// startNow runs the event at once; false means that the mailbox is closed. It
// is for events from the own lane, which wait at the broker and not in the
// queue: their runner asks free before it pulls.
func (m *mailbox) startNow(d *delivery) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.start(d)
	return true
}

// start begins a run. The lock is held.
func (m *mailbox) start(d *delivery) {
	m.running++
	m.busy.Go(func() { m.work(d) })
}

// work runs events until none is left that may run.
func (m *mailbox) work(d *delivery) {
	for d != nil {
		m.run(d)
		d = m.next()
	}
}

// next ends a run and returns the event to run next on the same goroutine. A
// window that has grown starts others beside it.
func (m *mailbox) next() *delivery {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running--
	signal(m.freed)
	window := m.window()
	var d *delivery
	for m.running < window && len(m.queue) > 0 {
		next := m.pop()
		if d == nil {
			d = next
			m.running++
		} else {
			m.start(next)
		}
	}
	return d
}

func (m *mailbox) pop() *delivery {
	d := m.queue[0]
	m.queue[0] = nil
	if m.queue = m.queue[1:]; len(m.queue) == 0 {
		m.queue = nil // let the array go: most endpoints are idle most of the time
	}
	signal(m.room)
	return d
}

// signal leaves a token, unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// stale tells whether the first in the queue has lost patience.
func (m *mailbox) stale(now time.Time) bool {
	return len(m.queue) > 0 && now.Sub(m.queue[0].queued) > mailboxPatience
}

// free is how many more events may start now.
func (m *mailbox) free() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.window() - m.running - len(m.queue)
}

// divert sends events to the own lane from now on (or no longer).
func (m *mailbox) divert(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.diverted = on
}

func (m *mailbox) isDiverted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.diverted
}

// spill returns what waits if the first of it has waited too long or the
// endpoint is diverted, and leaves the queue empty and the endpoint diverted.
// more is true when something still waits whose wait needs watching.
func (m *mailbox) spill(now time.Time) (spilt []*delivery, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) > 0 && (m.diverted || m.stale(now)) {
		spilt, m.queue, m.diverted = m.queue, nil, true
	}
	return spilt, len(m.queue) > 0
}

// close refuses events from now on and returns what waits.
func (m *mailbox) close() []*delivery {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := m.queue
	m.queue, m.closed = nil, true
	return left
}
