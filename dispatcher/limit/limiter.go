package limit

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"backstop/streams/manifest"
)

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
	window window
}

// epoch is the moment that windows count their times from.
var epoch = time.Now()

// Result is what the window learns from an attempt.
type Result uint8

// The results.
const (
	Ignored  Result = iota // says nothing about what the app can take
	Success                // a good answer, and how long it took
	Failure                // no answer, or one that says that the app is out of order
	PushBack               // the app says that it gets too much
)

func newLimiter(n numbers) *Limiter {
	l := &Limiter{window: newWindow(n.ceiling())}
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
	l.window.size = min(l.window.size, n.ceiling())
}

// Acquire asks whether an attempt may be made now: an event, or a call if call
// is true. If it may, the reason is None and done has to be called with the
// attempt's result when it is over; a second call of done does nothing. If it
// may not, done is nil, and wait says how long until it makes sense to ask
// again; 0 means that nobody knows, since it takes the end of an attempt in
// flight.
//
// Acquire holds events to the ceiling and leaves the window to whoever starts
// them: a window that halves just after somebody looked at it would refuse
// what was rightly started, and a refused event takes a detour.
func (l *Limiter) Acquire(call bool) (done func(Result), reason Reason, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.room(call) {
		return nil, Saturated, 0
	}
	if l.tokens != nil {
		now := time.Now()
		if !l.tokens.AllowN(now, 1) {
			return nil, RateLimited, l.delay(now)
		}
	}
	count := &l.calls
	if !call {
		count = &l.events
		l.window.began(l.events + 1)
	}
	*count++
	a, over := attempt{began: time.Since(epoch), load: l.events}, false
	return func(r Result) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !over {
			over = true
			*count--
			l.learn(r, a)
		}
	}, None, 0
}

// learn tells the window how an attempt ended. The lock is held.
func (l *Limiter) learn(r Result, a attempt) {
	switch r {
	case Success:
		l.window.succeeded(a, time.Since(epoch), l.events, l.ceiling())
	case Failure:
		l.window.failed()
	case PushBack:
		l.window.pushedBack(a, time.Since(epoch), l.events)
	case Ignored:
	}
}

// Window returns how many events may be in flight now, at least 1: as many as
// the app was found to take, and no more than calls in flight leave room for.
func (l *Limiter) Window() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(min(l.window.size, l.concurrency-l.calls), 1)
}

// Room tells whether Acquire would let an event begin now, but for the rate.
func (l *Limiter) Room() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.room(false)
}

// room tells whether the concurrency has room. The lock is held.
func (l *Limiter) room(call bool) bool {
	return l.events+l.calls < l.concurrency && (call || l.events < l.ceiling())
}

// StartSmall lets the window begin again with one event, and grow slowly: the
// app was out of order, and is not to be flooded when it comes back.
func (l *Limiter) StartSmall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window.startSmall(time.Since(epoch), l.events)
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
