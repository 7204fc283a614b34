package limit

import (
	"math"
	"time"
)

const (
	// firstWindow is how many events an endpoint of which nothing is known may
	// have in flight: enough not to slow down a fast app noticeably (three
	// answers later it has 64), and little to lose on one that hangs.
	firstWindow = 8
	// leastAnswers is how many answers a round has at least. Fewer would take
	// an app whose answers vary for one that has changed.
	leastAnswers = 16
	// leastSlack is the shortest wait at the app that matters: what is shorter
	// may as well be this machine's.
	leastSlack = 10 * time.Millisecond
	// lookEvery is for how many rounds a window is held before the base is
	// looked at again.
	lookEvery = 32
)

// window finds out how many events at once an app can take. It knows no clock
// and no lock; times are those since any one moment.
//
// It works in rounds of about as many answers as it is wide, and compares the
// mean latency of each with the base, which is what an answer takes when
// nothing waits at the app. An app that answers as fast as ever has no queue;
// by Little's law, one that takes twice as long lets as many wait as it works on.
//
//	latency     up to 1¼ × base    grow, by twice as much as in the last round
//	            up to 2 × base     hold, and after a while have a look
//	            more               have a look
//
// A look is a round with half the window. As long as answers become faster in
// proportion, there still is a queue, and the next round has half of that. What
// they take in the end is the new base, and what was worked on while there was
// a queue is the new window. So an app that has become slow by itself is not
// taken for one that has too much: its answers don't become faster, the base is
// what they take now, and the window is what it was.
type window struct {
	size int // how many events may be in flight: at least 1, at most the ceiling
	step int // how much it may grow in this round
	room int // how much of that is left
	peak int // the most events that were in flight in this round
	last int // and in the last, which may have ended with many still in flight
	// base is the latency without a queue; 0 while it isn't known.
	base time.Duration
	// before is the round that led to a look, while there is one.
	before summary
	held   int // for how many rounds the window was held
	round  round
}

// round is what is known of the attempts that began and succeeded since a moment.
type round struct {
	since    time.Duration
	wanted   int // how many answers make it whole
	answers  int
	load     int           // events in flight when each began, added up
	total    time.Duration // the latencies, added up
	moderate time.Duration // the same, with none above what the base makes believable
}

// summary is what one attempt of a round met, in the mean.
type summary struct {
	latency time.Duration
	load    float64
}

// attempt is one in flight: when it began, and how many events were in flight.
type attempt struct {
	began time.Duration
	load  int
}

func newWindow(ceiling int) window {
	w := window{size: min(firstWindow, ceiling), step: ceiling, room: ceiling}
	w.round = round{since: math.MinInt64, wanted: firstWindow}
	return w
}

// began notes that with an event that has just begun so many are in flight.
func (w *window) began(inFlight int) { w.peak = max(w.peak, inFlight) }

// used tells whether the window was a bound, or nearly: one that is twice as
// wide as what is in flight teaches nothing, and needn't grow.
func (w *window) used() bool { return 2*max(w.peak, w.last) > w.size }

// slack is how much longer than the base an answer may take.
func (w *window) slack() time.Duration { return max(w.base, leastSlack) }

// succeeded takes over a good answer, now. inFlight is the events that are left.
func (w *window) succeeded(a attempt, now time.Duration, inFlight, ceiling int) {
	if w.room > 0 && w.size < ceiling && w.used() {
		w.size++
		w.room--
	}
	if a.began < w.round.since {
		return
	}
	r := &w.round
	latency := now - a.began
	r.answers++
	r.load += a.load
	r.total += latency
	if w.base > 0 {
		latency = min(latency, w.base+3*w.slack())
	}
	r.moderate += latency
	if r.answers >= min(r.wanted, max(w.size, leastAnswers)) {
		w.judge(ceiling)
		w.next(now, inFlight)
	}
}

// failed takes over a failure. Each halves the window, so that an app that
// hangs soon holds one request.
func (w *window) failed() { w.size = max(w.size/2, 1) }

// pushedBack takes over that the app asked for less. What began before the last
// time was sent by a window that is no more, and says nothing.
func (w *window) pushedBack(a attempt, now time.Duration, inFlight int) {
	if a.began >= w.round.since {
		w.halve()
		w.before = summary{}
		w.next(now, inFlight)
	}
}

// startSmall begins again with one event: the app has just been out of order.
// What an answer takes is remembered.
func (w *window) startSmall(now time.Duration, inFlight int) {
	w.size, w.step, w.before = 1, 1, summary{}
	w.next(now, inFlight)
}

// next begins a round.
func (w *window) next(now time.Duration, inFlight int) {
	w.room, w.last, w.peak = min(w.step, max(w.size, leastAnswers)), w.peak, inFlight
	if w.before.latency > 0 {
		w.room = 0 // a look is at a window that stands still
	}
	w.round = round{since: now, wanted: max(w.size, leastAnswers)}
}

// judge decides by a round that is whole.
func (w *window) judge(ceiling int) {
	n := w.round.answers
	seen := summary{latency: w.round.total / time.Duration(n), load: float64(w.round.load) / float64(n)}
	moderate := w.round.moderate / time.Duration(n)
	before := w.before
	w.before = summary{}
	if w.base == 0 {
		w.base = max(seen.latency, 1)
		return
	}
	if max(w.peak, w.last) <= 1 || !w.used() { // what waits at the app isn't ours
		w.settle(moderate)
		return
	}
	if before.latency > 0 { // this round was the look
		if seen.latency-w.base > w.slack()/4 {
			// Slower by itself, or it didn't know yet how long its queue was
			// to be: the next sign of one is not waited with.
			w.held = lookEvery
		}
		w.base = max(seen.latency, 1)
		if w.size > 1 && seen.queuedAs(before) {
			w.look(seen)
			return
		}
		moderate = w.base
		w.size = min(max(w.size, w.enough(before)), ceiling)
	}
	switch wait := moderate - w.base; {
	case wait > w.slack(), wait > w.slack()/4 && w.held >= lookEvery:
		w.look(seen)
	case wait > w.slack()/4:
		w.step = 0
		w.held++
	default:
		w.step = min(max(2*w.step, 1), ceiling)
		if wait < w.slack()/8 {
			w.settle(moderate)
		}
	}
}

// look halves the window for a round, to see whether that makes answers faster.
func (w *window) look(seen summary) {
	w.before, w.held = seen, 0
	w.halve()
}

// enough is the window for what the app was working on in a round, without what
// waited there, by Little's law: and a quarter more, to keep the app busy.
func (w *window) enough(s summary) int {
	working := s.load * float64(w.base) / float64(s.latency)
	return max(int(working*1.25), 1)
}

// queuedAs tells whether the latency followed the load down all the way, or the
// load hasn't come down yet: then there may still be a queue.
func (s summary) queuedAs(before summary) bool {
	share := s.load / before.load
	return share > 0.75 || float64(s.latency) < 1.1*share*float64(before.latency)
}

// settle moves the base a little towards a latency without a queue.
func (w *window) settle(latency time.Duration) { w.base = max(w.base+(latency-w.base)/8, 1) }

// halve leaves half, at least 1, to grow by one a round at first.
func (w *window) halve() {
	w.size = max(w.size/2, 1)
	w.step = 1
}
