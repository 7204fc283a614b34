package breaker

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"backstop/streams"
	"backstop/streams/manifest"
)

// Why Allow lets nothing through.
var (
	ErrOpen = errors.New("the circuit is open")
	ErrBusy = errors.New("the circuit is half-open, and as many attempts as may be are under way")
)

// What a Result is to gobreaker, which knows only errors.
var (
	errFailure = errors.New("failure")
	errIgnored = errors.New("ignored")
)

// Breaker is the circuit breaker of one endpoint. It is safe for concurrent use.
type Breaker struct {
	id       streams.EndpointID
	onChange func(Change)
	policy   atomic.Pointer[manifest.BreakerPolicy]

	mu sync.Mutex
	// circuit counts and decides. Its own time to stay open is set to almost
	// nothing: until keeps the time, which gobreaker can't be told.
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]
	// making is true while circuit is being made; what it reports then is no
	// change, and it opens at any failure.
	making bool
	state  State     // as last reported
	until  time.Time // in Open: when it ends; zero means at Reset
	// epoch tells attempts let through in this state from earlier ones, whose
	// results say nothing about now.
	epoch    uint64
	failures int // in a row

	changes    []Change // to be reported, in order
	delivering bool     // somebody is reporting
}

// withDefaults fills in what a policy leaves open with the platform's values.
func withDefaults(p manifest.BreakerPolicy) manifest.BreakerPolicy {
	if p.FailureThreshold <= 0 {
		p.FailureThreshold = 5
	}
	if p.RecoveryTimeout <= 0 {
		p.RecoveryTimeout = time.Minute
	}
	if p.SuccessThreshold <= 0 {
		p.SuccessThreshold = 3
	}
	return p
}

func newBreaker(id streams.EndpointID, policy manifest.BreakerPolicy, onChange func(Change)) *Breaker {
	b := &Breaker{id: id, onChange: onChange}
	b.policy.Store(&policy)
	b.replace(Closed)
	return b
}

// Allow asks whether an attempt may be made. If it may, done has to be called
// with its result, whatever happens: a half-open breaker counts it until then.
// A second call of done does nothing. If it may not, the error is ErrOpen or
// ErrBusy.
func (b *Breaker) Allow() (done func(Result), err error) {
	b.mu.Lock()
	defer b.unlock()
	if b.state == Open && b.opensLater(time.Now()) {
		return nil, ErrOpen
	}
	settle, err := b.circuit.Allow()
	switch {
	case err == nil:
	case errors.Is(err, gobreaker.ErrTooManyRequests):
		return nil, ErrBusy
	default:
		return nil, ErrOpen
	}
	epoch, settled := b.epoch, false
	return func(r Result) {
		b.mu.Lock()
		defer b.unlock()
		if settled || epoch != b.epoch {
			return
		}
		settled = true
		switch r {
		case Success:
			b.failures = 0
			settle(nil)
		case Failure:
			b.failures++
			settle(errFailure)
		default:
			settle(errIgnored)
		}
	}, nil
}

// State returns the breaker's state, and for Open until when: zero means until
// Reset. An open breaker whose time is over is half-open, whether or not an
// attempt has come since.
func (b *Breaker) State() (State, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == Open && !b.opensLater(time.Now()) {
		return HalfOpen, time.Time{}
	}
	return b.state, b.until
}

// Trip opens the breaker until the given time, or until Reset when that is
// zero. Of one that is open already it changes the time.
func (b *Breaker) Trip(until time.Time, cause Cause) {
	b.mu.Lock()
	defer b.unlock()
	if b.state != Open {
		b.replace(Open)
	}
	b.become(Open, until, cause)
}

// Reset closes the breaker and forgets its failures. Attempts that are under
// way no longer count.
func (b *Breaker) Reset(cause Cause) {
	b.mu.Lock()
	defer b.unlock()
	b.failures = 0
	b.replace(Closed)
	b.become(Closed, time.Time{}, cause)
}

// opensLater tells, of an open breaker, whether it stays so. The lock is held.
func (b *Breaker) opensLater(now time.Time) bool { return b.until.IsZero() || now.Before(b.until) }

// setPolicy puts a policy in force. An open breaker stays open for as long as
// it was going to.
func (b *Breaker) setPolicy(p manifest.BreakerPolicy) {
	if *b.policy.Load() == p {
		return
	}
	b.mu.Lock()
	defer b.unlock()
	fresh := p // &p would cost an allocation at every call
	old := b.policy.Swap(&fresh)
	if old.SuccessThreshold == p.SuccessThreshold {
		return // the other numbers are looked up when they are needed
	}
	switch b.state {
	case Closed:
		b.failures = 0
		b.replace(Closed)
	case HalfOpen, Open: // half-open, too, is reached through open
		b.replace(Open)
	}
}

// silence drops what is to be reported, now and later.
func (b *Breaker) silence() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.onChange, b.changes = nil, nil
}

// replace puts a fresh circuit in the place of the old one, closed or open.
// The lock is held, or nobody knows b yet.
func (b *Breaker) replace(state State) {
	b.making = true
	b.circuit = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:   uint32(b.policy.Load().SuccessThreshold), //nolint:gosec // a manifest's number, at least 1
		Timeout:       time.Nanosecond,
		ReadyToTrip:   func(gobreaker.Counts) bool { return b.making || b.failures >= b.policy.Load().FailureThreshold },
		OnStateChange: func(_ string, _, to gobreaker.State) { b.moved(to) },
		IsSuccessful:  func(err error) bool { return err == nil },
		IsExcluded:    func(err error) bool { return errors.Is(err, errIgnored) },
	})
	if state == Open {
		if fail, err := b.circuit.Allow(); err == nil { // always: it is closed
			fail(errFailure)
		}
	}
	b.making = false
	b.epoch++
}

// moved takes over a change that the circuit made by itself, which it does
// while Allow or done hold the lock.
func (b *Breaker) moved(to gobreaker.State) {
	switch {
	case b.making:
	case to == gobreaker.StateOpen:
		b.become(Open, time.Now().Add(b.policy.Load().RecoveryTimeout), CauseFailures)
	case to == gobreaker.StateHalfOpen:
		b.become(HalfOpen, time.Time{}, CauseElapsed)
	default:
		b.become(Closed, time.Time{}, CauseRecovered)
	}
}

// become records the state and queues the change, if it is one. The lock is held.
func (b *Breaker) become(to State, until time.Time, cause Cause) {
	from := b.state
	if from == to && until.Equal(b.until) {
		return
	}
	b.state, b.until = to, until
	b.epoch++
	if b.onChange != nil {
		b.changes = append(b.changes, Change{ID: b.id, From: from, To: to, Until: until, Cause: cause, Failures: b.failures})
	}
}

// unlock gives up the lock, and first reports what has changed. Whoever finds
// somebody reporting leaves it to them: that keeps the order, and lets the
// listener itself cause changes.
func (b *Breaker) unlock() {
	if len(b.changes) == 0 || b.delivering {
		b.mu.Unlock()
		return
	}
	b.delivering = true
	defer func() {
		b.delivering = false
		b.mu.Unlock()
	}()
	for len(b.changes) > 0 {
		next, listener := b.changes[0], b.onChange
		b.changes = b.changes[1:]
		b.report(listener, next)
	}
}

// report calls the listener without the lock.
func (b *Breaker) report(listener func(Change), c Change) {
	b.mu.Unlock()
	defer b.mu.Lock()
	listener(c)
}
