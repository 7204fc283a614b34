package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"backstop/dispatcher"
	"backstop/streams"
)

// maxCalls is the most calls that one replica has in hand. Each holds its
// payload and a goroutine; what is above gets an error at once instead of an
// answer too late.
const maxCalls = 10_000

// callsName is what `nats micro ls` shows.
const callsName = "backstop-calls"

// stragglers is how long calls still come after the responder has told NATS
// that it takes no more: those that the client has received and not passed on.
const stragglers = 100 * time.Millisecond

// responder answers calls. All replicas share its queue group.
//
// It is a NATS micro service, so that `nats micro` finds it and shows its
// statistics. micro runs the handlers of an endpoint one after the other, so
// each call gets a goroutine of its own at once; and the reply is published
// here and not through micro, which reads a request's error after its handler
// has returned.
type responder struct {
	p  *Pipeline
	nc *nats.Conn

	standby *standby

	mu     sync.Mutex
	inHand int
	closed bool
	idle   chan struct{} // one token whenever nothing is in hand

	bySource map[streams.Source]*atomic.Uint64
	warned   time.Time // of a call that was refused for its reply subject; take's own
}

func newResponder(p *Pipeline, nc *nats.Conn) *responder {
	r := &responder{p: p, nc: nc, idle: make(chan struct{}, 1), bySource: make(map[streams.Source]*atomic.Uint64)}
	for _, s := range []streams.Source{
		streams.SourceApp, streams.SourceCache, streams.SourceDefault, streams.SourceQueued, streams.SourcePending, streams.SourceNone,
	} {
		r.bySource[s] = new(atomic.Uint64)
	}
	r.standby = newStandby(r)
	return r
}

// run answers calls until ctx ends, and then those that are in hand. It calls
// up when NATS knows that calls are taken.
func (r *responder) run(ctx context.Context, up func()) error {
	service, err := micro.AddService(r.nc, micro.Config{
		Name: callsName, Version: semantic(r.p.cfg.Version),
		Description: "Calls to apps, answered before their deadline: by the app, a fallback, or a clear error",
		Metadata:    map[string]string{"replica": r.p.cfg.Replica},
		StatsHandler: func(*micro.Endpoint) any {
			return r.stats()
		},
	})
	if err != nil {
		return err
	}
	// Everything under calls, so that a subject of a wrong shape gets an
	// answer that says so and not silence.
	err = service.AddEndpoint("calls", micro.HandlerFunc(r.take), micro.WithEndpointSubject(string(streams.Calls)+".>"),
		micro.WithEndpointMetadata(map[string]string{"subject": "calls.<capability>.<app>"}))
	if err == nil {
		err = r.nc.FlushTimeout(storeTimeout)
	}
	if err != nil {
		return errors.Join(err, service.Stop())
	}
	watching, drained := make(chan error, 1), make(chan struct{})
	go func() { watching <- r.standby.run(ctx, drained) }()
	up()
	<-ctx.Done()
	if err := service.Stop(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		r.p.log.Warn("calls: can't unsubscribe", "error", err)
	}
	_ = r.nc.FlushTimeout(time.Second) // a broker that is away sends no more calls either
	r.drain()
	close(drained)
	return <-watching
}

// answerCalls runs the responder until ctx ends; up is called when calls are
// answered. What keeps it from starting passes, as a broker that is away does.
func (p *Pipeline) answerCalls(ctx context.Context, up func()) {
	if p.cfg.Calls == nil {
		up()
		return
	}
	for ctx.Err() == nil {
		if err := newResponder(p, p.cfg.Calls).run(ctx, up); err != nil && ctx.Err() == nil {
			p.log.Warn("can't take calls, trying again", "error", err)
			sleep(ctx, time.Second)
		}
	}
}

// drain waits for the calls in hand; no call takes longer than its timeout.
func (r *responder) drain() {
	t := time.NewTimer(stragglers)
	defer t.Stop()
	<-t.C
	r.mu.Lock()
	r.closed = true
	left := r.inHand
	r.mu.Unlock()
	for left > 0 {
		<-r.idle
		r.mu.Lock()
		left = r.inHand
		r.mu.Unlock()
	}
	_ = r.nc.FlushTimeout(time.Second)
}

// take is micro's handler: it runs on the subscription's one goroutine.
func (r *responder) take(req micro.Request) {
	c := incomingCall(req.Subject(), req.Reply(), nats.Header(req.Headers()), req.Data(), time.Now())
	if streams.Reserved(c.reply) {
		r.refuse(c, time.Now())
		return
	}
	if c.reply != "" {
		r.standby.taken(c)
	}
	switch {
	case c.reply == "":
		// Nobody waits for the answer, so there is no call to make. An event
		// is what the publisher meant, perhaps.
		r.p.observe.Call(streams.EndpointID{}, streams.SourceNone, string(dispatcher.ReasonBadPayload), 0)
		r.p.log.Warn("a call without a reply subject was dropped: it has to be a request", "subject", c.subject)
	case !r.begin():
		r.answer(c, streams.EndpointID{}, failure(dispatcher.ReasonSaturated, streams.CodeAppBusy,
			"as many calls are under way as this replica takes; try again in a moment"))
	default:
		go r.serve(c)
	}
}

// refuse drops a call whose answer would go where Backstop or NATS listens. Who
// may only make calls could have had us overwrite an operator's gate
// ($KV.breakers.…), or send an app our answer as an event (lanes.…).
func (r *responder) refuse(c incoming, now time.Time) {
	r.p.observe.Call(streams.EndpointID{}, streams.SourceNone, string(dispatcher.ReasonBadPayload), 0)
	if now.Sub(r.warned) < noticeEvery {
		return
	}
	r.warned = now
	r.p.log.Warn("a call was dropped, as its reply subject is not its caller's to choose; others like it are dropped without a word for a minute",
		"subject", c.subject, "reply", c.reply)
}

func (r *responder) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.inHand >= maxCalls {
		return false
	}
	r.inHand++
	return true
}

func (r *responder) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inHand--; r.inHand == 0 {
		signal(r.idle)
	}
}

// serve answers one call.
func (r *responder) serve(c incoming) {
	defer r.end()
	id, reply := r.p.call(c)
	r.answer(c, id, reply)
}

// answer sends the reply. That it can't be sent is the caller's timeout; there
// is nobody else to tell.
func (r *responder) answer(c incoming, id streams.EndpointID, reply streams.Reply) {
	took := time.Since(c.received)
	reply.RequestID, reply.DurationMs = c.id, took.Milliseconds()
	msg := nats.NewMsg(c.reply)
	if !reply.Success {
		// What a client of NATS services looks at.
		msg.Header.Set(micro.ErrorHeader, reply.Error.Message)
		msg.Header.Set(micro.ErrorCodeHeader, reply.Error.Code)
	}
	var err error
	if msg.Data, err = json.Marshal(reply); err == nil {
		err = r.nc.PublishMsg(msg)
	}
	if err != nil {
		r.p.log.Warn("a call's answer could not be sent", "endpoint", id.String(), "error", err)
	}
	r.standby.done(c)
	r.bySource[reply.Source].Add(1)
	if id = r.p.fleet.named(id); id.App == "" {
		id.Capability = "" // a caller's word alone; unlike an event's, it needs no stream
	}
	r.p.observe.Call(id, reply.Source, reply.Reason, took)
}

// stats is what `nats micro stats` shows beside the number of requests.
func (r *responder) stats() any {
	r.mu.Lock()
	inHand := r.inHand
	r.mu.Unlock()
	sources := make(map[streams.Source]uint64)
	for source, n := range r.bySource {
		sources[source] = n.Load()
	}
	return struct {
		InHand   int                       `json:"in_hand"`
		Siblings int64                     `json:"siblings"` // replicas whose calls this one answers when they die
		BySource map[streams.Source]uint64 `json:"by_source"`
	}{inHand, r.standby.siblings.Load(), sources}
}

// versionPattern finds a semantic version's core at the start of ours, which
// may be git's description of a commit.
var versionPattern = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)`)

// semantic returns the version in the form that micro insists on.
func semantic(version string) string {
	if m := versionPattern.FindStringSubmatch(version); m != nil {
		return m[1]
	}
	return "0.0.0"
}
