package consumers

import (
	"context"
	"sync"
	"time"

	"backstop/streams"
)

// How soon a gate that could not be recorded is tried again, at first and at most.
const (
	gateRetry     = 250 * time.Millisecond
	gateRetryMost = 5 * time.Second
)

// gateWishes are the gates that this replica wants recorded in the breakers
// bucket. Each is tried until it is, or until it is no longer what this replica
// wants: tried once, a change that fell into the election of the bucket's
// leader, 4 to 8 s, was never heard of. A breaker that had closed stayed open in
// the bucket for ever, and an endpoint that had answered 410 was disabled at one
// replica alone, where nobody could enable it.
//
// One goroutine writes, so that of two wishes for an endpoint the later one
// comes last.
type gateWishes struct {
	p      *Pipeline
	wished chan struct{} // one token whenever there is something new

	mu     sync.Mutex
	wanted map[streams.EndpointID]*gateWish // the latest of each endpoint
}

// gateWish is one gate that should be recorded, or be gone.
type gateWish struct {
	id streams.EndpointID
	// disable says that the wish is the app's own (410): what breakers do
	// meanwhile doesn't replace it.
	disable bool
	// write tries once. again says that it was tried before: what the bucket
	// says may then be newer than the wish.
	write func(ctx context.Context, again bool) error

	tried int
	due   time.Time
	begun chan struct{} // closed when it has been tried once, or is wanted no more
}

func newGateWishes(p *Pipeline) *gateWishes {
	return &gateWishes{p: p, wished: make(chan struct{}, 1), wanted: make(map[streams.EndpointID]*gateWish)}
}

// record has the wish written, and waits until that has been tried once.
func (s *gateWishes) record(ctx context.Context, w *gateWish) {
	w.begun = make(chan struct{})
	s.mu.Lock()
	if old := s.wanted[w.id]; old != nil && old.disable && !w.disable {
		s.mu.Unlock()
		return
	}
	s.forgetLocked(w.id)
	s.wanted[w.id] = w
	s.mu.Unlock()
	signal(s.wished)
	select {
	case <-w.begun:
	case <-ctx.Done():
	}
}

// overtaken drops what was wanted for the breaker of an endpoint, as the bucket
// has told otherwise since.
func (s *gateWishes) overtaken(id streams.EndpointID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.wanted[id]; w != nil && !w.disable {
		s.forgetLocked(id)
	}
}

// enabled drops the wish to disable an endpoint.
func (s *gateWishes) enabled(id streams.EndpointID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.wanted[id]; w != nil && w.disable {
		s.forgetLocked(id)
	}
}

func (s *gateWishes) forgetLocked(id streams.EndpointID) {
	if w := s.wanted[id]; w != nil {
		delete(s.wanted, id)
		w.begin()
	}
}

// begin lets go of whoever waits for the first try. The lock is held.
func (w *gateWish) begin() {
	if w.tried == 0 {
		close(w.begun)
	}
	w.tried++
}

// run writes until ctx ends.
func (s *gateWishes) run(ctx context.Context) {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wished:
		case <-t.C:
		}
		for w := s.next(time.Now()); w != nil && ctx.Err() == nil; w = s.next(time.Now()) {
			s.write(ctx, w)
		}
		t.Reset(s.wait(time.Now()))
	}
}

// next returns a wish that is due, nil when none is.
func (s *gateWishes) next(now time.Time) *gateWish {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.wanted {
		if !w.due.After(now) {
			return w
		}
	}
	return nil
}

// wait is how long no wish is due.
func (s *gateWishes) wait(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := time.Hour
	for _, w := range s.wanted {
		wait = min(wait, max(w.due.Sub(now), 0))
	}
	return wait
}

func (s *gateWishes) write(ctx context.Context, w *gateWish) {
	try, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := w.write(try, w.tried > 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted[w.id] != w {
		return // another wish has come meanwhile, or none is left
	}
	if err == nil {
		if w.tried > 0 {
			s.p.log.Info("the breakers bucket knows now", "endpoint", w.id.String())
		}
		s.forgetLocked(w.id)
		return
	}
	if w.tried == 0 {
		s.p.log.Warn("other replicas can't be told about a breaker yet, trying again", "endpoint", w.id.String(), "error", err)
	}
	w.due = time.Now().Add(min(gateRetry<<min(w.tried, 8), gateRetryMost))
	w.begin()
}
