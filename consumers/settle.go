package consumers

import (
	"context"
	"fmt"
	"time"

	"backstop/dispatcher"
	"backstop/streams"
	"backstop/streams/killpoint"
	"backstop/streams/manifest"
)

// attempt makes one attempt at an event and settles it. It runs on a goroutine
// of the endpoint's mailbox.
func (p *Pipeline) attempt(e *endpoint, d *delivery) {
	declared := e.takes(d.own)
	if declared == nil {
		if declared = p.route(d); declared == nil {
			return
		}
	}
	config := declared.config
	switch now := p.clock.now(); {
	case e.disabled.Load():
		p.bury(d, streams.EndpointDisabled, "the endpoint is disabled", 0)
		return
	case now.Sub(d.event.PublishedAt) > config.MaxAge:
		p.bury(d, streams.Expired, fmt.Sprintf("older than the endpoint's maxAge of %v", config.MaxAge), 0)
		return
	}
	call := dispatcher.Call{Event: d.event, Endpoint: config, Attempt: d.event.Attempts + 1}
	if done, may := p.probes.try(p.work, e, declared.breaker); may {
		defer done()
	} else {
		call.Refuse = dispatcher.ReasonCircuitOpen
	}
	if killpoint.Broken(killpoint.AckFirst) {
		_ = d.msg.Ack()
	}
	out := p.cfg.Deliver(p.work, call)
	killpoint.Here(killpoint.Answered)
	p.settle(e, d, config, out)
}

// settle turns the outcome of an attempt into what becomes of the event.
// Whatever it is, its successor is stored before the event is acknowledged.
func (p *Pipeline) settle(e *endpoint, d *delivery, config manifest.Endpoint, out dispatcher.Outcome) {
	if out.Requested {
		d.event.Attempts++
	}
	p.notify(e, out)
	switch out.Verdict {
	case dispatcher.Delivered:
		p.delivered(d, config.Callback)
	case dispatcher.Rejected:
		if out.Gone {
			p.disable(e)
			p.bury(d, streams.EndpointDisabled, outcomeText(out), out.Status)
			return
		}
		p.bury(d, streams.RejectedByApp, outcomeText(out), out.Status)
	case dispatcher.Refused:
		p.waitFor(e, d, out)
	default: // Retry
		wait := delay(config.Retry, waits(d.event, out), out.RetryAfter)
		if killpoint.Broken(killpoint.Impatient) {
			wait = 0
		}
		if out.PauseEndpoint { // whatever becomes of this event
			e.pause(time.Now().Add(wait))
		}
		if out.Requested && d.event.Attempts >= config.Retry.MaxAttempts {
			killpoint.Here(killpoint.LastAttemptFailed)
			p.bury(d, streams.Exhausted, outcomeText(out), out.Status)
			return
		}
		d.event.NotBefore = p.clock.now().Add(wait)
		p.park(e, d)
	}
}

// waitFor handles an event that a stage refused without a request: it waits in
// its own lane until the endpoint takes traffic again, and no attempt is spent.
func (p *Pipeline) waitFor(e *endpoint, d *delivery, out dispatcher.Outcome) {
	switch {
	case out.Reason == dispatcher.ReasonDisabled:
		p.bury(d, streams.EndpointDisabled, outcomeText(out), 0)
	case !d.own:
		e.box.divert(true)
		p.park(e, d)
	default:
		// Where it is, it is right already. The lane is paused while the
		// breaker is open, so this wait is for what slipped through; it must
		// not outlast a breaker that is reset, or lets probes through early.
		wait := max(out.RetryAfter, time.Second)
		if out.Reason == dispatcher.ReasonCircuitOpen {
			wait = time.Second
		}
		if d.handed > streams.CrashLoopLane/2 {
			// It counts as handed out each time, and would be taken for what
			// kills its workers. A new message begins to count anew.
			d.event.NotBefore = p.clock.now().Add(wait)
			p.park(e, d)
			return
		}
		d.putBack(wait)
	}
}

// notify tells people what they should know of an outcome.
func (p *Pipeline) notify(e *endpoint, out dispatcher.Outcome) {
	if out.Misconfigured {
		p.notices.add(streams.NoticeMisconfigured, e.id,
			fmt.Sprintf("%s answers %d: look at its base URL, path and secret", e.id, out.Status), map[string]any{"status": out.Status})
	}
}

func (p *Pipeline) noRoute(e streams.Event, declared bool) string {
	switch {
	case e.App == "":
		return "no app takes events of " + e.Capability
	case declared:
		return fmt.Sprintf("the webhook of %s for %s takes calls only (\"async\": false)", e.App, e.Capability)
	default:
		return fmt.Sprintf("no manifest declares a webhook of app %q for %s", e.App, e.Capability)
	}
}

func outcomeText(out dispatcher.Outcome) string {
	if out.Err == nil {
		return string(out.Reason)
	}
	return out.Err.Error()
}

// retryStore runs store until it succeeds, can't ever, or the pipeline must
// stop, and tells whether it has. The event is held meanwhile, so that a broker
// that is full or away makes this process hold back, and not lose or give up,
// events.
func (p *Pipeline) retryStore(what string, id streams.EndpointID, store func(context.Context) error) bool {
	return p.tryStore(what, id, store) == nil
}

// tryStore is retryStore, and tells why it has not stored: see streams.NeverFits.
func (p *Pipeline) tryStore(what string, id streams.EndpointID, store func(context.Context) error) error {
	wait := 100 * time.Millisecond
	for {
		ctx, cancel := context.WithTimeout(p.work, storeTimeout)
		err := store(ctx)
		cancel()
		switch {
		case err == nil:
			return nil
		case streams.NeverFits(err):
			p.log.Error("can't be stored, and never will be", "what", what, "endpoint", id.String(), "error", err)
			return err
		}
		p.log.Warn("can't store yet, trying again", "what", what, "endpoint", id.String(), "error", err, "in", wait)
		select {
		case <-p.work.Done():
			return err
		case <-p.stopping:
			// One try more, and then the event is left for the next start.
			select {
			case <-p.work.Done():
			case <-time.After(wait):
			}
			ctx, cancel := context.WithTimeout(p.work, storeTimeout)
			defer cancel()
			return store(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// storeTimeout bounds one publish. When the leader of three servers is killed,
// publishing stalls for 4 to 8 s.
const storeTimeout = 12 * time.Second

// waits returns which wait the event has before it, from 1. A fault of our own
// spends no attempt, and its waits grow with the event's hops.
func waits(e streams.Event, out dispatcher.Outcome) int {
	if out.Requested {
		return e.Attempts
	}
	return max(e.Attempts, e.Hops, 1)
}
