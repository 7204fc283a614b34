package limit

import (
	"sync"

	"backstop/streams"
	"backstop/streams/manifest"
)

// Set holds the limiters of all endpoints. It is safe for concurrent use.
type Set struct {
	mu       sync.RWMutex
	limiters map[streams.EndpointID]*Limiter
}

// NewSet returns an empty set.
func NewSet() *Set { return &Set{limiters: make(map[streams.EndpointID]*Limiter)} }

// Get returns the endpoint's limiter, with the endpoint's numbers from now on.
// What is in flight, and what the window has learnt, is kept.
func (s *Set) Get(ep manifest.Endpoint) *Limiter {
	n := numbersOf(ep)
	s.mu.RLock()
	l := s.limiters[ep.EndpointID]
	s.mu.RUnlock()
	if l == nil {
		l = s.add(ep.EndpointID, n)
	}
	l.configure(n)
	return l
}

func (s *Set) add(id streams.EndpointID, n numbers) *Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limiters[id]
	if l == nil {
		l = newLimiter(n)
		s.limiters[id] = l
	}
	return l
}

// Remove forgets the endpoint's limiter. Attempts in flight may still release it.
func (s *Set) Remove(id streams.EndpointID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.limiters, id)
}
