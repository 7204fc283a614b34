// Package consumers is everything that consumes: the lanes that run webhooks,
// and what becomes of an event after each attempt.
//
//	EVENTS_<capability> ─ lane ─ mailbox ─ attempt ─ settle ─┬─ ack
//	                       │                                 ├─ park ─ LANES ─ ownLane ─ mailbox …
//	                       ├─ fanOut (a broadcast)           └─ bury ─ DLQ
//	                       ├─ park  (an endpoint in trouble)
//	                       └─ bury  (no route, bad payload, crash loop)
//
// One rule holds everywhere: an event is acknowledged only after whatever
// succeeds it is stored.
package consumers

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/dispatcher"
	"backstop/dispatcher/breaker"
	"backstop/dispatcher/limit"
	"backstop/streams"
	"backstop/streams/killpoint"
	"backstop/streams/manifest"
)

// Config is what a Pipeline is made of. All fields are required but those that
// say what they are without.
type Config struct {
	// JetStream is where events come from and go to.
	JetStream jetstream.JetStream
	// Topology makes the streams of capabilities. Ensure has been called.
	Topology *streams.Topology
	// Deliver makes one attempt: the dispatcher's chain.
	Deliver dispatcher.Handler
	// Calls is the connection that calls come and are answered on. One of its
	// own keeps them from queueing behind events. Nil answers no calls.
	Calls *nats.Conn
	// Fallback returns the stage that answers calls which the app doesn't; it
	// may use the pipeline's Enqueue and FallbackUsed. Nil leaves those calls
	// with an error.
	Fallback func(*Pipeline) dispatcher.Stage
	// Breakers and Limits are those that Deliver uses.
	Breakers *breaker.Set
	Limits   *limit.Set
	// Transitions is what Breakers reports to.
	Transitions *Transitions
	// Manifests is watched; a change takes effect within a second.
	Manifests *manifest.Store
	// Defaults complete what a manifest leaves open.
	Defaults manifest.Defaults
	// Replica names this process among its siblings.
	Replica string
	// Version is the program's, as shown to whoever looks at NATS services.
	// Without one it is 0.0.0.
	Version string
	// Log gets what an operator should know. Never payloads or secrets.
	Log *slog.Logger
	// Drain is how long a shutdown waits for attempts in flight before it
	// cuts them off, to be repeated after the next start. Defaults to 35 s:
	// the longest timeout that the catalogue allows, and what settling takes.
	Drain time.Duration
	// Observer counts what happens. Nil counts nothing.
	Observer Observer
	// Health says how apps' health is checked. Its zero value checks nothing.
	Health HealthConfig
	// Now is the time that alerts go by. Defaults to time.Now.
	Now func() time.Time
	// AlertEvery is how often alerts are evaluated. Defaults to 10 s.
	AlertEvery time.Duration
}

// Observer is told what the pipeline does with events, beside the attempts
// that the dispatcher measures. An app that no manifest declares has an empty
// name here, and so has a capability that is not known to exist: a publisher
// may come up with any name, as many as it likes, and with such that are not
// even UTF-8, which once ended the process in a metric's label.
type Observer interface {
	DeadLetter(streams.EndpointID, streams.DeadLetterReason)
	// Call tells of an answered call: of which endpoint, who answered, why it
	// wasn't the app, how long it took.
	Call(id streams.EndpointID, source streams.Source, reason string, took time.Duration)
}

type noObserver struct{}

func (noObserver) DeadLetter(streams.EndpointID, streams.DeadLetterReason)        {}
func (noObserver) Call(streams.EndpointID, streams.Source, string, time.Duration) {}

// Pipeline consumes events and runs webhooks. Make one with New and call Run.
type Pipeline struct {
	cfg     Config
	js      jetstream.JetStream
	log     *slog.Logger
	letters *streams.DeadLetters
	gates   *streams.Gates
	leases  jetstream.KeyValue
	observe Observer
	answer  dispatcher.Handler // of calls: Deliver, and a fallback around it

	callbacks *streams.Callbacks
	pendings  *streams.Pendings

	fleet        *fleet
	capabilities *capabilities
	lanes        *lanes
	laneHolds    *holds
	rations      rations
	probes       *probes
	wishes       *gateWishes
	parker       *parker
	spiller      *spiller
	clock        brokerClock
	notices      *notices
	folder       *folder
	rollups      *Rollups
	alerting     *alerting
	health       *healthChecks

	// work outlives the context of Run: attempts in flight are finished and
	// settled after pulling has stopped.
	work     context.Context //nolint:containedctx // the base of work that no caller waits for, as http.Server has one
	cutOff   context.CancelFunc
	stopping chan struct{}  // closed when Run begins to shut down
	busy     sync.WaitGroup // attempts, parkings, burials
	marking  sync.WaitGroup // in-progress marks
	ready    chan struct{}
}

// New returns a Pipeline; the error says that a bucket is missing, which means
// that Topology.Ensure was not called.
func New(ctx context.Context, cfg Config) (*Pipeline, error) {
	if cfg.Drain <= 0 {
		cfg.Drain = 35 * time.Second
	}
	if cfg.Observer == nil {
		cfg.Observer = noObserver{}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	breakers, err := cfg.JetStream.KeyValue(ctx, streams.BreakersBucket)
	if err != nil {
		return nil, err
	}
	leases, err := cfg.JetStream.KeyValue(ctx, streams.LeasesBucket)
	if err != nil {
		return nil, err
	}
	healths, err := cfg.JetStream.KeyValue(ctx, streams.HealthBucket)
	if err != nil {
		return nil, err
	}
	callbacks, err := streams.NewCallbacks(ctx, cfg.JetStream)
	if err != nil {
		return nil, err
	}
	pending, err := cfg.JetStream.KeyValue(ctx, streams.PendingBucket)
	if err != nil {
		return nil, err
	}
	rollups, err := cfg.JetStream.KeyValue(ctx, streams.RollupsBucket)
	if err != nil {
		return nil, err
	}
	alerts, err := cfg.JetStream.KeyValue(ctx, streams.AlertsBucket)
	if err != nil {
		return nil, err
	}
	p := &Pipeline{
		cfg: cfg, js: cfg.JetStream, log: cfg.Log, observe: cfg.Observer,
		letters: streams.NewDeadLetters(cfg.JetStream), gates: streams.NewGates(breakers), leases: leases, callbacks: callbacks, pendings: streams.NewPendings(pending),
		parker: newParker(cfg.JetStream), notices: newNotices(cfg.JetStream, cfg.Log),
		folder: &folder{js: cfg.JetStream, log: cfg.Log}, rollups: NewRollups(cfg.JetStream, rollups, cfg.Log),
		stopping: make(chan struct{}), ready: make(chan struct{}),
	}
	p.laneHolds = newHolds(&p.rations.ownHeld)
	p.alerting = newAlerting(p, streams.NewAlerts(alerts))
	p.work, p.cutOff = context.WithCancel(context.WithoutCancel(ctx))
	p.answer = dispatcher.Chain(cfg.Deliver, p.learning)
	if cfg.Fallback != nil {
		p.answer = dispatcher.Chain(p.answer, cfg.Fallback(p))
	}
	p.fleet = newFleet(cfg, p.attempt, &p.busy)
	p.capabilities = newCapabilities(p)
	p.lanes = newLanes(p)
	p.probes = newProbes(p)
	p.wishes = newGateWishes(p)
	p.health = newHealthChecks(p, cfg.Health, streams.NewHealths(healths))
	p.spiller = newSpiller(func(e *endpoint, d *delivery) { p.aside(func() { p.park(e, d) }) })
	return p, nil
}

// Ready is closed when manifests and breakers are loaded, every declared
// capability can be published to, and calls are answered.
func (p *Pipeline) Ready() <-chan struct{} { return p.ready }

// Rollups answers what came of the attempts of the last day, once Run runs.
func (p *Pipeline) Rollups() *Rollups { return p.rollups }

// RollupLag is how old the attempts are that the rollups don't have yet: 0 when
// there are none, or when another replica adds them up.
func (p *Pipeline) RollupLag() time.Duration { return p.folder.lag() }

// AlertsActive is how many alerts are raised, at the replica that evaluates
// them; 0 at the others.
func (p *Pipeline) AlertsActive() int { return int(p.alerting.active.Load()) }

// aside does something for an event that waits for the network, so that no
// pull waits for it. What is held bounds how much of it there can be.
func (p *Pipeline) aside(do func()) { p.busy.Go(do) }

// Run consumes until ctx ends, and then shuts down in order: it stops pulling,
// gives back what waits, lets attempts in flight finish and settle, and tells
// the broker. It returns nil after a shutdown in which everything settled.
func (p *Pipeline) Run(ctx context.Context) error {
	defer p.cutOff()
	ctx, cancel := withoutDeadline(ctx)
	defer cancel()
	var follow, pull, after sync.WaitGroup

	// What the lanes rely on is loaded before they start.
	clock, gates, manifests := make(chan struct{}), make(chan struct{}), make(chan struct{})
	follow.Go(func() { p.clock.follow(ctx, p.js, sync.OnceFunc(func() { close(clock) })) })
	waitAll(ctx, clock) // which gates are read by
	follow.Go(func() { _ = p.followGates(ctx, func() { close(gates) }) })
	follow.Go(func() { _ = p.rollups.Run(ctx) })
	follow.Go(func() { p.followManifests(ctx, sync.OnceFunc(func() { close(manifests) })) })
	// Breakers change and notices are made until the last event has settled.
	after.Go(func() { p.followBreakers(p.work) })
	after.Go(func() { p.wishes.run(p.work) })
	after.Go(func() { p.notices.run(p.work) })
	after.Go(func() { p.parker.run(p.work) })
	p.marking.Go(func() { p.laneHolds.run(p.work) })

	if waitAll(ctx, gates, manifests) {
		pull.Go(func() { p.spiller.run(ctx) })
		pull.Go(func() { p.lanes.run(ctx) })
		pull.Go(func() { p.followAdvisories(ctx) })
		pull.Go(func() { p.keepTopology(ctx) })
		calls, events := make(chan struct{}), make(chan struct{})
		pull.Go(func() { p.answerCalls(ctx, sync.OnceFunc(func() { close(calls) })) })
		pull.Go(func() {
			// On a full disk a lease can't be renewed, and trimming is what
			// makes room.
			t := newTrimmer(p)
			withLeaseOr(ctx, p.leases, "trimmer", p.cfg.Replica, t.run, t.round)
		})
		if p.cfg.Health.Interval > 0 {
			pull.Go(func() { withLease(ctx, p.leases, "health", p.cfg.Replica, p.health.run) })
		}
		pull.Go(func() {
			withLease(ctx, p.leases, "callbacks", p.cfg.Replica, (&awaiting{p: p}).run)
		})
		pull.Go(func() { withLease(ctx, p.leases, "watch", p.cfg.Replica, p.watch) })
		decisions := newDecisions(p)
		pull.Go(func() { decisions.follow(ctx) })
		pull.Go(func() { decisions.run(ctx) })
		pull.Go(func() { p.capabilities.run(ctx, sync.OnceFunc(func() { close(events) })) })
		if waitAll(ctx, calls, events) {
			close(p.ready)
		}
		<-ctx.Done()
	}
	close(p.stopping)
	pull.Wait()
	follow.Wait()
	err := p.drain()
	killpoint.Here(killpoint.Draining)
	p.cutOff()
	p.marking.Wait()
	after.Wait()
	return err
}

// watch is what one replica does for all with the delivery log and the notices,
// until ctx ends. Under one lease, as each is renewed with a write.
func (p *Pipeline) watch(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { p.folder.run(ctx) })
	all.Go(func() { p.alerting.run(ctx) })
	all.Go(func() { (&forwarder{p: p}).run(ctx) })
	all.Wait()
}

// withoutDeadline returns a context that ends with ctx and has no deadline. A
// request to JetStream takes the context's deadline in the place of its own
// timeout, and one that went down with a broker that was restarted is never
// answered: a lane once waited a minute for such a one.
func withoutDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	free, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	return free, func() {
		stop()
		cancel()
	}
}

// waitAll waits for the channels; false means that ctx ended first.
func waitAll(ctx context.Context, chans ...<-chan struct{}) bool {
	for _, c := range chans {
		select {
		case <-ctx.Done():
			return false
		case <-c:
		}
	}
	return true
}

// errCutOff says that a shutdown could not wait for everything in flight.
var errCutOff = errors.New("some attempts were cut off by the shutdown; they are repeated after the next start")

// drain gives back what waits and waits for what is in flight.
func (p *Pipeline) drain() error {
	for _, e := range p.fleet.all() {
		for _, d := range e.box.close() {
			d.putBack(0)
		}
	}
	settled := make(chan struct{})
	go func() {
		p.busy.Wait()
		close(settled)
	}()
	t := time.NewTimer(p.cfg.Drain)
	defer t.Stop()
	select {
	case <-settled:
		return nil
	case <-t.C:
		p.log.Warn("shutdown: attempts still in flight are cut off", "after", p.cfg.Drain)
		p.cutOff()
		<-settled
		return errCutOff
	}
}
