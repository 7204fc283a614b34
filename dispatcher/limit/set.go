package limit

import (
	"cmp"
	"slices"
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

// Held is an endpoint whose window lets fewer events be in flight than its
// manifest does, and is a bound that matters, or nearly.
type Held struct {
	streams.EndpointID
	Window  int // how many may be in flight now, at least 1
	Ceiling int // how many the manifest lets
}

// Held returns the endpoints that are held back, those with the least of their
// ceiling first, and at most so many.
func (s *Set) Held(most int) []Held {
	var all []Held
	s.mu.RLock()
	for id, l := range s.limiters {
		if h := (Held{EndpointID: id}); l.held(&h) {
			all = append(all, h)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b Held) int {
		return cmp.Or(cmp.Compare(a.Window*b.Ceiling, b.Window*a.Ceiling), a.Compare(b.EndpointID))
	})
	return all[:min(len(all), most)]
}

// held fills in the numbers, and tells whether the endpoint is held back.
func (l *Limiter) held(h *Held) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.Window, h.Ceiling = l.window.size, l.ceiling()
	return h.Window < h.Ceiling && l.window.used()
}
