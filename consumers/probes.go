package consumers

import (
	"context"
	"sync"
	"time"

	"backstop/dispatcher/breaker"
	"backstop/streams"
)

const (
	// probeLinger is how long a replica keeps the right to probe after its last
	// attempt, or its last look for something to try: long enough that those
	// which close a breaker are all its own.
	probeLinger = 2 * lanePull
	// probeLook is how often it is looked whether that time is over.
	probeLook = 100 * time.Millisecond
	// probeAsk bounds the question who may probe.
	probeAsk = time.Second
	// probeAgain is how long a replica that may not probe doesn't ask again.
	probeAgain = time.Second
	// clockJitter is by how much two readings of NATS's clock may differ.
	clockJitter = 50 * time.Millisecond
)

// probes sees to it that of all replicas one probes an endpoint whose breaker
// is half-open. Each replica has a breaker of its own, and the time of all of
// them is over at once: an app that has just come back, or hasn't, would be
// asked by every one.
//
// The right to probe is a lease, taken when there is something to try and given
// back when the breaker has decided. While a breaker is closed, or open, nobody
// is asked. A replica that is killed while it probes keeps the others waiting
// until its lease expires, 10 s at most.
type probes struct {
	p      *Pipeline
	mu     sync.Mutex
	rights map[streams.EndpointID]*right
}

// right is this replica's right to probe one endpoint.
type right struct {
	trying int       // attempts under way
	last   time.Time // when one ended
	end    context.CancelFunc
}

func newProbes(p *Pipeline) *probes {
	return &probes{p: p, rights: make(map[streams.EndpointID]*right)}
}

// try asks whether this replica may make an attempt at the endpoint. If it may,
// done has to be called when the attempt is over. An open breaker is not left to
// refuse the attempt itself: its time may be over a moment later.
func (s *probes) try(ctx context.Context, e *endpoint, b *breaker.Breaker) (done func(), ok bool) {
	switch state, _ := b.State(); state {
	case breaker.Closed:
		return func() {}, true
	case breaker.Open:
		return nil, false
	case breaker.HalfOpen:
	}
	s.mu.Lock()
	r := s.rights[e.id]
	if r != nil {
		r.trying++
	}
	s.mu.Unlock()
	if r == nil && !e.yields(time.Now()) {
		r = s.ask(ctx, e)
	}
	if r == nil {
		return nil, false
	}
	return func() { s.tried(r) }, true
}

func (s *probes) tried(r *right) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.trying--
	r.last = time.Now()
}

// claim tells whether this replica may look for something to try. Events are not
// pulled without: one that is put back over and over is taken for one that kills
// its workers.
func (s *probes) claim(ctx context.Context, e *endpoint) bool {
	d := e.declared.Load()
	if d == nil {
		return true // its events become dead letters
	}
	done, ok := s.try(ctx, e, d.breaker)
	if ok {
		done()
	}
	return ok
}

// ask asks for the right, and has it in use when it returns one; nil means that
// another replica has it, or has used it already and the breaker is open again.
func (s *probes) ask(ctx context.Context, e *endpoint) *right {
	ctx, cancel := context.WithTimeout(ctx, probeAsk)
	defer cancel()
	name := "probe." + e.id.Capability + "." + e.id.App
	revision, err := s.p.leases.Create(ctx, name, []byte(s.p.cfg.Replica))
	if err != nil {
		e.yield(time.Now().Add(probeAgain))
		return nil
	}
	held, end := context.WithCancel(s.p.work)
	r := &right{trying: 1, end: end}
	s.mu.Lock()
	s.rights[e.id] = r
	s.mu.Unlock()
	s.p.marking.Go(func() {
		defer s.drop(e.id, r)
		holdLease(held, s.p.leases, name, s.p.cfg.Replica, revision, func(ctx context.Context) { s.linger(ctx, e.id, r) })
	})
	// Whoever had it before may have found out a moment ago, and the watch not
	// have told yet.
	g, there, err := s.p.gates.Get(ctx, e.id)
	if err != nil || there && g.State == streams.GateOpen && g.Until.After(s.p.clock.now().Add(clockJitter)) {
		s.drop(e.id, r)
		e.yield(time.Now().Add(probeAgain))
		return nil
	}
	return r
}

// linger drops the right when nothing has been tried for a while.
func (s *probes) linger(ctx context.Context, id streams.EndpointID, r *right) {
	for ctx.Err() == nil {
		sleep(ctx, probeLook)
		s.mu.Lock()
		over := r.trying == 0 && time.Since(r.last) > probeLinger
		s.mu.Unlock()
		if over {
			s.drop(id, r)
		}
	}
}

// decided gives the right to probe back, if this replica has it: the breaker is
// no longer half-open.
func (s *probes) decided(id streams.EndpointID) {
	s.mu.Lock()
	r := s.rights[id]
	s.mu.Unlock()
	if r != nil {
		s.drop(id, r)
	}
}

// drop gives a right back. It is forgotten first: nobody may use it while the
// lease is on its way to another replica.
func (s *probes) drop(id streams.EndpointID, r *right) {
	s.mu.Lock()
	if s.rights[id] == r {
		delete(s.rights, id)
	}
	s.mu.Unlock()
	r.end()
}
