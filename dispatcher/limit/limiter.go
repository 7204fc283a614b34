package limit

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"backstop/streams/manifest"
)

// firstWindow is how many events an endpoint of which nothing is known may
// have in flight: enough not to slow down a fast app noticeably (three
// answers later it has 64), and little to lose on one that hangs.
const firstWindow = 8

// burst is how much of a second's attempts may begin at the same moment. Less
// would refuse one of two events that happen to come together; more would let
// a second see noticeably more than the limit.
const burst = 0.1

// maxDelay is the longest wait that is ever reported: a day, after which
// whoever waits had better ask again.
const maxDelay = 24 * time.Hour

// numbers are the parts of an endpoint that matter here.
type numbers struct {
	concurrency int
	rate        float64
	async       bool
}

func numbersOf(ep manifest.Endpoint) numbers {
	return numbers{concurrency: max(ep.Concurrency, 1), rate: max(ep.RateLimit, 0), async: ep.Async}
}

// ceiling is the most events in flight. Where events are not what the webhook
// is for, they get half, so that a flood of them can't starve calls.
func (n numbers) ceiling() int {
	if n.async {
		return n.concurrency
	}
	return max(n.concurrency/2, 1)
}

func (n numbers) burst() int { return max(int(math.Ceil(n.rate*burst)), 1) }

// Limiter limits one endpoint. It is safe for concurrent use.
type Limiter struct {
	mu sync.Mutex
	numbers
	tokens *rate.Limiter // nil without a rate limit
	events int           // in flight
	calls  int           // in flight
	window int           // at least 1, at most the ceiling
}

func newLimiter(n numbers) *Limiter {
	l := &Limiter{window: min(firstWindow, n.ceiling())}
	l.apply(n)
	return l
}

func (l *Limiter) configure(n numbers) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.numbers != n {
		l.apply(n)
	}
}

// apply takes over the numbers. The lock is held, or nobody knows l yet.
func (l *Limiter) apply(n numbers) {
	switch {
	case n.rate == 0:
		l.tokens = nil
	case l.tokens == nil:
		l.tokens = rate.NewLimiter(rate.Limit(n.rate), n.burst())
	case l.rate != n.rate:
		l.tokens.SetLimit(rate.Limit(n.rate))
		l.tokens.SetBurst(n.burst())
	}
	l.numbers = n
	l.window = min(l.window, n.ceiling())
}

// Acquire asks whether an attempt may be made now: an event, or a call if call
// is true. If it may, the reason is None and release has to be called when the
// attempt is over; a second release does nothing. If it may not, release is
// nil, and wait says how long until it makes sense to ask again; 0 means that
// nobody knows, since it takes the end of an attempt in flight.
//
// Acquire holds events to the ceiling and leaves the window to whoever starts
// them: a window that halves just after somebody looked at it would refuse
// what was rightly started, and a refused event takes a detour.
func (l *Limiter) Acquire(call bool) (release func(), reason Reason, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.events+l.calls >= l.concurrency || (!call && l.events >= l.ceiling()) {
		return nil, Saturated, 0
	}
	if l.tokens != nil {
		now := time.Now()
		if !l.tokens.AllowN(now, 1) {
			return nil, RateLimited, l.delay(now)
		}
	}
	count := &l.events
	if call {
		count = &l.calls
	}
	*count++
	released := false
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !released {
			released = true
			*count--
		}
	}, None, 0
}

// Window returns how many events may be in flight now, at least 1: as many as
// the app was found to take, and no more than calls in flight leave room for.
func (l *Limiter) Window() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(min(l.window, l.concurrency-l.calls), 1)
}

// Observe tells the window how an attempt ended. What says nothing about the
// app's health is not observed.
func (l *Limiter) Observe(success bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if success {
		l.window = min(l.window+1, l.ceiling())
	} else {
		l.window = max(l.window/2, 1)
	}
}

// TokenDelay returns how long it takes until the rate limit lets another
// attempt begin; 0 means that it does now. It takes nothing from it.
func (l *Limiter) TokenDelay() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tokens == nil {
		return 0
	}
	return l.delay(time.Now())
}

// delay is the time until a whole token is there. The lock is held.
func (l *Limiter) delay(now time.Time) time.Duration {
	missing := 1 - l.tokens.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	// Rounded up, so that a token is there afterwards; and a rate next to
	// nothing must not overflow.
	return time.Duration(min(math.Ceil(missing/l.rate*float64(time.Second)), float64(maxDelay)))
}
