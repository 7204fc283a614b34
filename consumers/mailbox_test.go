package consumers

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"backstop/streams"
)

// worker is what a mailbox runs: it holds each event until it is let go.
type worker struct {
	mu      sync.Mutex
	started []uint64
	release chan struct{}
}

func (w *worker) run(d *delivery) {
	w.mu.Lock()
	w.started = append(w.started, d.seq)
	w.mu.Unlock()
	<-w.release
}

func (w *worker) ran() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.started)
}

func bubble(t *testing.T, window func() int, test func(m *mailbox, w *worker)) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		w := &worker{release: make(chan struct{})}
		var busy sync.WaitGroup
		test(newMailbox(window, w.run, &busy), w)
		close(w.release)
		busy.Wait()
	})
}

func item(seq uint64) *delivery { return &delivery{seq: seq, queued: time.Now()} }

func TestMailboxRunsNoMoreThanItsWindowAndKeepsOrder(t *testing.T) {
	bubble(t, func() int { return 3 }, func(m *mailbox, w *worker) {
		want := []placed{started, started, started, queuedFirst, queued}
		for i, p := range want {
			if got := m.put(item(uint64(i)), false); got != p {
				t.Errorf("put %d = %d, want %d", i, got, p)
			}
		}
		synctest.Wait()
		if got := w.ran(); got != 3 {
			t.Fatalf("%d run, want the window's 3", got)
		}
		w.release <- struct{}{}
		synctest.Wait()
		if got := w.ran(); got != 4 || w.started[3] != 3 {
			t.Errorf("after one ended, %v run; want event 3 to be next", w.started)
		}
	})
}

func TestMailboxFollowsAWindowThatGrows(t *testing.T) {
	window := 1
	bubble(t, func() int { return window }, func(m *mailbox, w *worker) {
		for i := range uint64(10) {
			m.put(item(i), false)
		}
		synctest.Wait()
		window = 5
		w.release <- struct{}{}
		synctest.Wait()
		if got := w.ran(); got != 6 {
			t.Errorf("%d were started, want the first and five beside each other", got)
		}
	})
}

func TestMailboxDivertsWhatDoesNotMove(t *testing.T) {
	bubble(t, func() int { return 1 }, func(m *mailbox, w *worker) {
		m.put(item(0), false)
		m.put(item(1), false)
		time.Sleep(mailboxPatience + time.Millisecond)
		if got := m.put(item(2), true); got != refused {
			t.Errorf("put behind an event that has waited too long = %d, want refused", got)
		}
		if spilt, more := m.spill(time.Now()); len(spilt) != 1 || spilt[0].seq != 1 || more {
			t.Errorf("spilt %d, more %v; want event 1 and nothing left", len(spilt), more)
		}
		if got := m.put(item(3), true); got != refused {
			t.Errorf("put while diverted = %d, want refused", got)
		}
		m.divert(false)
		if got := m.put(item(4), true); got != queuedFirst {
			t.Errorf("put after that = %d, want queuedFirst", got)
		}
	})
}

func TestMailboxThatIsFull(t *testing.T) {
	bubble(t, func() int { return 1 }, func(m *mailbox, w *worker) {
		m.put(item(0), false)
		for i := range uint64(mailboxSize) {
			m.put(item(i+1), false)
		}
		if got := m.put(item(9999), true); got != moving {
			t.Errorf("put to a full mailbox that may be waited for = %d, want moving", got)
		}
		time.Sleep(mailboxPatience + time.Millisecond)
		if got := m.put(item(9999), true); got != refused {
			t.Errorf("put to a full mailbox that doesn't move = %d, want refused", got)
		}
	})
	bubble(t, func() int { return 1 }, func(m *mailbox, w *worker) {
		for i := range uint64(mailboxSize + 1) {
			m.put(item(i), false)
		}
		if got := m.put(item(9999), false); got != refused {
			t.Errorf("put to a full mailbox that may not be waited for = %d, want refused", got)
		}
	})
}

func TestMailboxSpillsNothingInTime(t *testing.T) {
	bubble(t, func() int { return 1 }, func(m *mailbox, w *worker) {
		m.put(item(0), false)
		m.put(item(1), false)
		if spilt, more := m.spill(time.Now()); len(spilt) != 0 || !more {
			t.Errorf("spilt %d, more %v; want nothing yet, and to be asked again", len(spilt), more)
		}
	})
}

func TestClosedMailbox(t *testing.T) {
	bubble(t, func() int { return 1 }, func(m *mailbox, w *worker) {
		m.put(item(0), false)
		m.put(item(1), false)
		if left := m.close(); len(left) != 1 || left[0].seq != 1 {
			t.Errorf("close returned %d events, want the one that waits", len(left))
		}
		if got := m.put(item(2), true); got != refused {
			t.Errorf("put after close = %d, want refused", got)
		}
		if m.startNow(item(3)) {
			t.Error("startNow after close ran the event")
		}
	})
}

func TestCourtesy(t *testing.T) {
	a, b := streams.EndpointID{Capability: "c", App: "a"}, streams.EndpointID{Capability: "c", App: "b"}
	ea := &endpoint{id: a}
	start := time.Now()
	var c courtesy
	c.seen(a, start)
	c.waited(ea, time.Hour)
	if !c.mayWait(ea) {
		t.Error("alone in the lane, and yet it may not wait")
	}
	c.seen(b, start)
	if c.mayWait(ea) {
		t.Error("it has used its time up, and somebody else is there, and yet it may wait")
	}
	c.seen(a, start.Add(courtesyWindow+time.Second))
	if !c.mayWait(ea) {
		t.Error("a new window brings no new time")
	}
	c.waited(ea, courtesyBudget)
	if c.mayWait(ea) {
		t.Error("the other was there in the last window, and yet it may wait beyond its time")
	}
	c.seen(a, start.Add(2*courtesyWindow+2*time.Second))
	c.waited(ea, time.Hour)
	if !c.mayWait(ea) {
		t.Error("nobody else for a whole window, and yet it may not wait")
	}
}
