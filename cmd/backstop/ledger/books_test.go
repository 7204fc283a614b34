package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"backstop/streams"
)

// target is one event at one endpoint.
type target struct {
	id string
	streams.EndpointID
}

// publication is an event that was acknowledged.
type publication struct {
	at   time.Time
	body string // hash of the payload
	// queued came of a call, whose own attempt has the same id.
	queued bool
	// maybe: nobody knows whether it was stored at all.
	maybe bool
	// owed may be delivered again because a callback did not come.
	owed bool
	// decided: an operator replayed or discarded its dead letter, or tried to.
	decided bool
}

// books are what everybody has on record at the end of a run.
type books struct {
	published map[target]publication
	requests  map[target][]entry
	letters   map[target][]streams.DeadLetter
	pending   map[target]int
	discarded map[target]bool
	faults    []fault
	clocks    []time.Duration // how far ahead clocks were set at some time

	// How endpoints are configured.
	maxAttempts         int
	firstWait, mostWait time.Duration // between attempts, at least

	// What the audit counts.
	delivered, dead, waiting, gone, several, repeated int
	problems                                          []string
}

func (b *books) problem(format string, args ...any) {
	b.problems = append(b.problems, fmt.Sprintf(format, args...))
}

func (b *books) String() string {
	return fmt.Sprintf("published %d = delivered %d + dead-lettered %d + pending %d + discarded %d − several of these %d; delivered again %d; faults %d",
		len(b.published), b.delivered, b.dead, b.waiting, b.gone, b.several, b.repeated, len(b.faults))
}

// audit compares what was published with what became of it.
func (b *books) audit() {
	for t, requests := range b.requests {
		slices.SortFunc(requests, func(x, y entry) int { return x.At.Compare(y.At) })
		if _, ours := b.published[t]; !ours {
			b.problem("a request for event %s at %s, which was never published to it", t.id, t.EndpointID)
		}
	}
	for t, letters := range b.letters {
		if _, ours := b.published[t]; !ours {
			b.problem("a dead letter (%s) of event %s at %s, which was never published to it", letters[0].Reason, t.id, t.EndpointID)
		}
	}
	for t, p := range b.published {
		b.account(t, p)
		b.payload(t, p)
		b.attempts(t, p)
	}
}

// account looks for the one thing that became of an event.
func (b *books) account(t target, p publication) {
	requests, letters := b.requests[t], b.letters[t]
	var times []time.Time // of deliveries
	for _, e := range requests {
		if e.Status/100 == 2 {
			times = append(times, e.At)
		}
	}
	fates := 0
	for _, fate := range []struct {
		yes   bool
		count *int
	}{{len(times) > 0, &b.delivered}, {len(letters) > 0, &b.dead}, {b.pending[t] > 0, &b.waiting}, {b.discarded[t], &b.gone}} {
		if fate.yes {
			*fate.count++
			fates++
		}
	}
	switch {
	case fates == 0 && p.maybe:
	case fates == 0:
		b.problem("event %s for %s, published at %s, is neither delivered nor dead-lettered nor pending nor discarded: LOST; requests %s", t.id, t.EndpointID, clock(p.at), describe(requests))
	case len(letters) > 1 && !(p.decided && differ(letters)):
		b.problem("event %s at %s has %d dead letters", t.id, t.EndpointID, len(letters))
	case b.pending[t] > 1 && !p.decided && !p.owed && !b.explained(p, requests, time.Now()):
		b.problem("event %s at %s is pending %d times", t.id, t.EndpointID, b.pending[t])
	case fates > 1 && p.queued: // the app answered the call too late, and then the event
		b.several++
	case fates > 1:
		b.several++
		last := times
		if len(letters) > 0 {
			last = append(last, letters[0].FailedAt)
		}
		if !p.decided && !p.owed && !b.explained(p, requests, slices.MaxFunc(append(last, p.at), time.Time.Compare)) {
			b.problem("event %s at %s was delivered at %v, dead-lettered %d times, is pending %d times, discarded %t, and no fault explains it; requests %s", t.id, t.EndpointID, times, len(letters), b.pending[t], b.discarded[t], describe(requests))
		}
	}
	for i := 1; i < len(times); i++ {
		b.repeated++
		if !p.decided && !p.owed && !p.queued && !b.explained(p, requests, times[i]) {
			b.problem("event %s for %s was delivered at %s and again %v later, and no fault explains it", t.id, t.EndpointID, clock(times[i-1]), times[i].Sub(times[i-1]))
		}
	}
}

// differ tells whether the dead letters are of different publishes: that an
// event was replayed is another, and a server that loses its power may lose
// that the dead letter before it was removed.
func differ(letters []streams.DeadLetter) bool {
	seen := map[string]bool{}
	for _, l := range letters {
		seen[l.Origin] = true
	}
	return len(seen) == len(letters)
}

// payload checks that what was published is what arrived, or is kept.
func (b *books) payload(t target, p publication) {
	for _, e := range b.requests[t] {
		if e.Body != p.body {
			b.problem("event %s reached %s with another payload than it was published with", t.id, t.EndpointID)
		}
		if e.Signature != "ok" && e.Signature != "unchecked" {
			b.problem("event %s reached %s badly signed: %s", t.id, t.EndpointID, e.Signature)
		}
		if !e.Signed.IsZero() && !b.fresh(e) {
			b.problem("event %s reached %s at %s, signed for %v", t.id, t.EndpointID, clock(e.At), e.Signed)
		}
	}
	for _, l := range b.letters[t] {
		if hashOf(l.Payload) != p.body {
			b.problem("the dead letter of event %s at %s has another payload than was published", t.id, t.EndpointID)
		}
	}
}

// fresh tells whether a signature's timestamp is of the moment when it came, by
// a clock as it was set at some time of the run.
func (b *books) fresh(e entry) bool {
	for _, ahead := range append([]time.Duration{0}, b.clocks...) {
		if age := e.At.Add(ahead).Sub(e.Signed); age > -2*time.Second && age < 10*time.Second {
			return true
		}
	}
	return false
}

// attempts checks how often and how soon the event was tried.
func (b *books) attempts(t target, p publication) {
	requests := b.requests[t]
	if p.decided || p.owed || p.queued {
		return // several rounds of attempts, each counted from 1
	}
	// Each fault of the server may undo all that were acknowledged.
	if most := b.maxAttempts * (1 + len(b.faults)); len(requests) > most {
		b.problem("event %s for %s was tried %d times, want at most %d", t.id, t.EndpointID, len(requests), most)
	}
	latest := map[int]time.Time{} // request of each attempt
	for _, e := range requests {
		n, err := strconv.Atoi(e.Attempt)
		if err != nil || n < 1 || n > b.maxAttempts {
			b.problem("event %s for %s came as attempt %q, want 1 to %d", t.id, t.EndpointID, e.Attempt, b.maxAttempts)
			continue
		}
		if before, again := latest[n]; again && !b.explained(p, requests, e.At) {
			b.problem("event %s for %s came as attempt %d twice, %v apart, and no fault explains it", t.id, t.EndpointID, n, e.At.Sub(before))
		}
		if before, ok := latest[n-1]; ok {
			least := min(b.firstWait<<(n-2), b.mostWait)
			if gap := e.At.Sub(before); gap < least && !b.explained(p, requests, e.At) {
				b.problem("attempt %d of event %s at %s came %v after the one before, want at least %v", n, t.id, t.EndpointID, gap, least)
			}
		}
		latest[n] = e.At
	}
}

// serverShadow is the same for a fault of the NATS server, which may be behind
// with writing acknowledgements down by as long as its disk keeps it waiting;
// these disks are busy.
const serverShadow = 6 * time.Second

// explained tells whether a fault explains that an event was handled once more
// at the given time: one began before that, and something had happened to the
// event while it lasted, or not long before - it was published, or tried - that
// may have been undone, or left half done, by the fault.
func (b *books) explained(p publication, requests []entry, again time.Time) bool {
	happened := []time.Time{p.at}
	for _, e := range requests {
		happened = append(happened, e.At)
	}
	for _, f := range b.faults {
		shadow := killShadow
		if f.server {
			shadow = serverShadow
		}
		for _, at := range happened {
			if f.from.Before(again) && f.from.Sub(at) < shadow && !at.After(f.to) {
				return true
			}
		}
	}
	return false
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

func describe(requests []entry) string {
	text := ""
	for _, e := range requests {
		text += fmt.Sprintf("[%s attempt %s answered %d]", clock(e.At), e.Attempt, e.Status)
	}
	return cmp.Or(text, "none")
}
