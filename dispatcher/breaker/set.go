package breaker

import (
	"maps"
	"sync"

	"backstop/streams"
	"backstop/streams/manifest"
)

// Set holds the breakers of all endpoints. It is safe for concurrent use.
type Set struct {
	onChange func(Change)

	mu       sync.RWMutex
	breakers map[streams.EndpointID]*Breaker
}

// NewSet returns an empty set. onChange hears of every change; of one breaker,
// in order and one at a time. No lock is held meanwhile, so it may use the
// breakers, but it runs on the goroutine of an attempt and should be quick.
// nil means that nobody listens.
func NewSet(onChange func(Change)) *Set {
	return &Set{onChange: onChange, breakers: make(map[streams.EndpointID]*Breaker)}
}

// Get returns the endpoint's breaker, closed when it is new, with this policy
// from now on.
func (s *Set) Get(id streams.EndpointID, policy manifest.BreakerPolicy) *Breaker {
	policy = withDefaults(policy)
	s.mu.RLock()
	b := s.breakers[id]
	s.mu.RUnlock()
	if b == nil {
		b = s.add(id, policy)
	}
	b.setPolicy(policy)
	return b
}

func (s *Set) add(id streams.EndpointID, policy manifest.BreakerPolicy) *Breaker {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.breakers[id]
	if b == nil {
		b = newBreaker(id, policy, s.onChange)
		s.breakers[id] = b
	}
	return b
}

// Remove forgets the endpoint's breaker, which reports no changes from now on.
// A later Get makes a new one, closed.
func (s *Set) Remove(id streams.EndpointID) {
	s.mu.Lock()
	b := s.breakers[id]
	delete(s.breakers, id)
	s.mu.Unlock()
	if b != nil {
		b.silence()
	}
}

// Each calls f for every breaker, in no particular order. f may use the set.
func (s *Set) Each(f func(streams.EndpointID, *Breaker)) {
	s.mu.RLock()
	all := maps.Clone(s.breakers)
	s.mu.RUnlock()
	for id, b := range all {
		f(id, b)
	}
}
