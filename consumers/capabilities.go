package consumers

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"backstop/streams"
	"backstop/streams/killpoint"
)

// reviewEvery is how often the streams are compared with the manifests even
// if no manifest has changed, so that what failed, or what two replicas did
// across each other, is put right.
const reviewEvery = 30 * time.Second

// capabilities runs a shared lane for every capability that has a stream, makes
// the stream when the first app declares the capability as async, and retires
// it when the last one no longer does.
type capabilities struct {
	p     *Pipeline
	dirty chan struct{} // one token whenever the manifests may ask for a change

	mu      sync.Mutex
	lanes   map[string]laneState // those that have a lane
	running sync.WaitGroup
}

// laneState is what was last done to a capability's stream.
type laneState int

const (
	adopted laneState = iota // found at the start, and neither yet
	ensured                  // open to publishers
	retired                  // closed to publishers, as nobody declares it
)

func newCapabilities(p *Pipeline) *capabilities {
	return &capabilities{p: p, dirty: make(chan struct{}, 1), lanes: make(map[string]laneState)}
}

// review asks for a comparison soon.
func (c *capabilities) review() {
	select {
	case c.dirty <- struct{}{}:
	default:
	}
}

// known returns the capabilities that have a stream, sorted.
func (c *capabilities) known() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.lanes))
}

// run starts lanes for the streams that there are, calls ready when those that
// the manifests ask for exist as well, and follows changes until ctx ends and
// every lane has stopped pulling.
func (c *capabilities) run(ctx context.Context, ready func()) {
	defer c.running.Wait()
	for ctx.Err() == nil {
		if err := c.adopt(ctx); err == nil {
			break
		} else if ctx.Err() == nil {
			c.p.log.Warn("can't list the streams, trying again", "error", err)
			sleep(ctx, time.Second)
		}
	}
	for ctx.Err() == nil {
		wait := reviewEvery
		if c.compare(ctx) {
			ready()
		} else {
			wait = time.Second
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-c.dirty:
		case <-t.C:
			c.verify(ctx)
		}
		t.Stop()
	}
}

// adopt starts a lane for every stream of events that exists, declared or not:
// what was acknowledged is settled, if only as no_route.
func (c *capabilities) adopt(ctx context.Context) error {
	names := c.p.js.StreamNames(ctx)
	for name := range names.Name() {
		if capability, ok := strings.CutPrefix(name, streams.EventStreamPrefix); ok {
			c.start(ctx, capability, adopted)
		}
	}
	return names.Err()
}

// compare makes and retires streams as the manifests ask; false means that
// something has to be tried again.
func (c *capabilities) compare(ctx context.Context) bool {
	wanted := c.p.fleet.capabilities()
	ok := true
	for _, name := range wanted {
		if c.state(name) == ensured {
			continue
		}
		if err := c.p.cfg.Topology.EnsureCapability(ctx, name); err != nil {
			c.p.log.Error("can't make the stream of a capability, trying again", "capability", name, "error", err)
			ok = false
			continue
		}
		killpoint.Here(killpoint.CapabilityMade)
		c.start(ctx, name, ensured)
	}
	for _, name := range c.known() {
		if _, found := slices.BinarySearch(wanted, name); found || c.state(name) == retired {
			continue
		}
		if err := c.p.cfg.Topology.RetireCapability(ctx, name); err != nil {
			c.p.log.Error("can't retire the stream of a capability, trying again", "capability", name, "error", err)
			ok = false
			continue
		}
		c.start(ctx, name, retired)
	}
	return ok
}

// verify looks whether each stream is as it was left, and has the next
// comparison do over what isn't.
func (c *capabilities) verify(ctx context.Context) {
	for _, name := range c.known() {
		open, err := c.p.cfg.Topology.Open(ctx, name)
		c.mu.Lock()
		if state := c.lanes[name]; err == nil && (open && state == retired || !open && state == ensured) {
			c.p.log.Warn("the stream of a capability is not as it was left", "capability", name, "open", open)
			c.lanes[name] = adopted
		}
		c.mu.Unlock()
	}
}

func (c *capabilities) state(capability string) laneState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lanes[capability]
}

// start notes what was done to the capability's stream, and pulls it if that
// isn't done yet.
func (c *capabilities) start(ctx context.Context, capability string, state laneState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, running := c.lanes[capability]; !running && ctx.Err() == nil {
		l := &lane{p: c.p, capability: capability, holds: newHolds(&c.p.rations.sharedHeld)}
		c.running.Go(func() { l.run(ctx) })
		c.p.marking.Go(func() { l.holds.run(c.p.work) })
	}
	c.lanes[capability] = state
}
