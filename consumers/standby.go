package consumers

import (
	"container/heap"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"backstop/streams"
)

// The subjects on which replicas tell each other of calls. Core NATS: what is
// lost here costs a call the help of a sibling, and nothing else.
const (
	replicasAlive = streams.Replicas + ".alive" // the replica's name, every beat
	replicasTaken = streams.Replicas + ".taken" // replica, reply subject, id: this call is mine
	replicasDone  = streams.Replicas + ".done"  // reply subject: this call is answered
)

const (
	// beat is how often a replica says that it is there, and loneBeat how often
	// one that hears no other: an idle process should cost nothing.
	beat     = 100 * time.Millisecond
	loneBeat = time.Second
	// A replica is gone when it has been silent for half of the time that one
	// of its calls still has, within these bounds: a machine that is busy
	// elsewhere may skip some beats, and a call that is nearly due can't wait.
	leastSilence = 250 * time.Millisecond
	mostSilence  = time.Second
	// parting is when a sibling that is silent is no longer watched over.
	parting = 10 * time.Second
	// standbyBacklog is how many messages wait for a standby that is busy.
	// After more it has missed some, and forgets what it knew.
	standbyBacklog = 1 << 16
)

// standby keeps the promise that a call is answered before its deadline when
// the replica that took it is killed: NATS gives a call to one replica of the
// queue group, and knows nothing of what becomes of it. As soon as a replica
// hears a sibling, it reads along what calls come and who takes and answers
// them, and answers in the place of one that has fallen silent, or that has
// let the time for its answer pass: with a fallback or an error, since the app
// may have been asked. Two answers do no harm; a caller reads the first, and
// what a fallback stores has the call's id.
//
// A replica alone publishes two small messages for each call, which go to
// nobody, and does nothing else.
type standby struct {
	r    *responder
	name string

	in    chan *nats.Msg
	along []*nats.Subscription // what is read along; none while alone

	heard map[string]presence // by replica, our own as well
	calls map[string]*watched // by reply subject
	due   dueCalls

	others   atomic.Bool  // somebody else is heard
	siblings atomic.Int64 // whose calls are watched
}

// presence is what is heard of a replica.
type presence struct {
	last   time.Time
	steady bool // it beats as one does that has heard another
}

// watched is a call that came to all replicas.
type watched struct {
	call  incoming
	owner string    // "" until it says so
	seen  time.Time // when we first heard of it
	due   time.Time // when an answer that isn't there is late
	over  bool      // answered, or no longer watched
}

func newStandby(r *responder) *standby {
	return &standby{
		r: r, name: r.p.cfg.Replica, in: make(chan *nats.Msg, standbyBacklog),
		heard: make(map[string]presence), calls: make(map[string]*watched),
	}
}

// taken tells the siblings that a call is in this replica's hands.
func (s *standby) taken(c incoming) {
	_ = s.r.nc.Publish(replicasTaken, []byte(s.name+"\n"+c.reply+"\n"+c.id))
}

// done tells the siblings that a call is answered.
func (s *standby) done(c incoming) {
	_ = s.r.nc.Publish(replicasDone, []byte(c.reply))
}

// run watches until ctx ends, and says that this replica is there until
// drained is closed: the calls in its hands are answered until then.
func (s *standby) run(ctx context.Context, drained <-chan struct{}) error {
	alive, err := s.r.nc.ChanSubscribe(replicasAlive, s.in)
	if err != nil {
		return err
	}
	lost := s.r.nc.StatusChanged(nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	var beating sync.WaitGroup
	beating.Go(func() { s.beat(drained) })
	defer func() {
		s.r.nc.RemoveStatusListener(lost)
		_ = alive.Unsubscribe()
		s.leave()
		beating.Wait()
	}()
	look := time.NewTimer(beat)
	defer look.Stop()
	late := time.NewTimer(time.Hour)
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			s.forget() // who knows what was said meanwhile
		case msg := <-s.in:
			s.read(msg, time.Now())
		case now := <-look.C:
			s.look(now)
			look.Reset(s.pace())
		case now := <-late.C:
			s.answerLate(now)
		}
		if len(s.due) > 0 {
			late.Reset(time.Until(s.due[0].due))
		}
	}
}

// beat says that this replica is there.
func (s *standby) beat(until <-chan struct{}) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-until:
			return
		case <-t.C:
		}
		_ = s.r.nc.Publish(replicasAlive, []byte(s.name))
		t.Reset(s.pace())
	}
}

func (s *standby) pace() time.Duration {
	if s.others.Load() {
		return beat
	}
	return loneBeat
}

func (s *standby) read(msg *nats.Msg, now time.Time) {
	switch msg.Subject {
	case replicasAlive:
		name := string(msg.Data)
		s.heard[name] = presence{last: now, steady: s.heard[name].steady || now.Sub(s.heard[name].last) < loneBeat/2}
		if name != s.name {
			s.others.Store(true)
		}
	case replicasTaken:
		owner, rest, _ := strings.Cut(string(msg.Data), "\n")
		reply, id, _ := strings.Cut(rest, "\n")
		w := s.watch(reply, now)
		w.owner, w.call.id = owner, id
		if owner == s.name {
			w.end() // ours to answer
		}
	case replicasDone:
		// One that we never saw is kept as well, for some time: in a cluster
		// the call itself may take another way, and come later.
		s.watch(string(msg.Data), now).end()
	default:
		if msg.Reply == "" || streams.Reserved(msg.Reply) {
			return // nobody takes it
		}
		w := s.watch(msg.Reply, now)
		if w.over {
			return
		}
		c := incomingCall(msg.Subject, msg.Reply, msg.Header, msg.Data, now)
		if w.call.id != "" {
			c.id = w.call.id
		}
		w.call = c
		timeout := s.r.p.timeout(c)
		// Its replica answers some time before what it keeps for the way back.
		w.due = now.Add(timeout - wayBack(timeout)*3/4)
		heap.Push(&s.due, w)
	}
}

// end ends the watch over a call, and lets its payload go.
func (w *watched) end() { w.over, w.call = true, incoming{} }

// watch returns what is known of the call with a reply subject.
func (s *standby) watch(reply string, now time.Time) *watched {
	w, ok := s.calls[reply]
	if !ok {
		w = &watched{seen: now}
		s.calls[reply] = w
	}
	return w
}

// look joins siblings that are new, leaves when there are none, and answers
// the calls of those that are gone.
func (s *standby) look(now time.Time) {
	siblings, others := int64(0), false
	for name, is := range s.heard {
		switch {
		case now.Sub(is.last) > parting:
			delete(s.heard, name)
		case name != s.name:
			others = true
			if is.steady {
				siblings++
			}
		}
	}
	s.others.Store(others)
	switch {
	case siblings == 0:
		s.leave()
		return
	case s.missed():
		s.r.p.log.Warn("calls: too much to read along what the other replicas do; calls in hand of one that dies just now are not answered")
		return
	case s.along == nil && !s.join():
		return
	}
	s.siblings.Store(siblings)
	if now.Sub(s.heard[s.name].last) > leastSilence {
		return // it is we who are not heard
	}
	for reply, w := range s.calls {
		switch {
		case w.over:
			if now.Sub(w.seen) > mostSilence {
				delete(s.calls, reply)
			}
		case w.call.reply == "": // taken, and the call itself never came
			w.over = now.Sub(w.seen) > parting
		case s.silence(w, now) > min(max(w.due.Sub(now)/2, leastSilence), mostSilence):
			s.answer(w)
		}
	}
}

// silence returns for how long nothing was heard of the replica that has the
// call, or of a call that no replica has.
func (s *standby) silence(w *watched, now time.Time) time.Duration {
	if w.owner == "" {
		return now.Sub(w.seen)
	}
	return now.Sub(s.heard[w.owner].last)
}

// answerLate answers what should have been answered by now.
func (s *standby) answerLate(now time.Time) {
	for len(s.due) > 0 && !s.due[0].due.After(now) {
		w := s.due[0]
		heap.Pop(&s.due)
		if !w.over {
			s.answer(w)
		}
	}
}

// answer answers a call in its owner's place.
func (s *standby) answer(w *watched) {
	c := w.call
	c.orphan = true
	w.end()
	s.r.p.log.Info("answering a call in another replica's place", "replica", w.owner, "subject", c.subject, "id", c.id)
	if s.r.begin() {
		go s.r.serve(c)
	}
}

// join begins to read along; false means that it can't.
func (s *standby) join() bool {
	for _, subject := range []string{replicasTaken, replicasDone, string(streams.Calls) + ".>"} {
		sub, err := s.r.nc.ChanSubscribe(subject, s.in)
		if err != nil {
			s.r.p.log.Warn("calls: can't read along what the other replicas do", "error", err)
			s.leave()
			return false
		}
		s.along = append(s.along, sub)
	}
	return true
}

// leave ends that.
func (s *standby) leave() {
	for _, sub := range s.along {
		_ = sub.Unsubscribe()
	}
	s.along = nil
	s.siblings.Store(0)
	s.forget()
}

// missed tells whether messages were dropped since it was last asked.
func (s *standby) missed() bool {
	for _, sub := range s.along {
		if n, err := sub.Dropped(); err == nil && n > 0 {
			s.leave() // to join again, and count from zero
			return true
		}
	}
	return false
}

// forget gives up on what is known and on what waits to be read: with a part
// of it missing, an answer that was given would be given again.
func (s *standby) forget() {
	clear(s.calls)
	s.due = nil
	for {
		select {
		case <-s.in:
		default:
			return
		}
	}
}

// dueCalls is a heap of calls, the earliest due first.
type dueCalls []*watched

func (d dueCalls) Len() int           { return len(d) }
func (d dueCalls) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d dueCalls) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }

// Push adds a *watched.
func (d *dueCalls) Push(x any) {
	w, _ := x.(*watched) // always: read is the only caller
	*d = append(*d, w)
}

// Pop removes the last.
func (d *dueCalls) Pop() any {
	last := len(*d) - 1
	w := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	return w
}
