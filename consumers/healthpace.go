package consumers

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// checkSoon is how soon an app is checked that is new or has changed, or one of
// whose breakers has opened.
const checkSoon = time.Second

// catchUp is the time between the checks of apps that are all due at once, as
// at the first start: 50 a second.
const catchUp = 20 * time.Millisecond

// A sick app is checked ten times as often as others, but no more often than
// every sickLeast, and no less often than every sickMost.
const (
	sickShare = 10
	sickLeast = 10 * time.Second
	sickMost  = 30 * time.Second
)

// pace says when an app is checked next.
type pace struct{ interval time.Duration }

// regular returns the next check of a healthy app after the given time. Every
// app has its own place in the interval, by its name, so that thousands are
// spread over it, after a restart and on another replica as well; up to a
// twentieth of the interval is added, so that it is no clockwork.
func (p pace) regular(app string, after time.Time) time.Time {
	name := fnv.New64a()
	_, _ = name.Write([]byte(app)) // a hash takes everything
	place := time.Duration(name.Sum64()>>1) % p.interval
	at := after.Truncate(p.interval).Add(place)
	if !at.After(after) {
		at = at.Add(p.interval)
	}
	return at.Add(upTo(p.interval / 20))
}

// sick returns the next check of a sick app after the given time.
func (p pace) sick(after time.Time) time.Time {
	every := p.sickEvery()
	return after.Add(every + upTo(every/10))
}

func (p pace) sickEvery() time.Duration {
	return min(max(p.interval/sickShare, sickLeast), sickMost, p.interval)
}

// overdue tells whether an app that was last checked then should have been
// checked again by now.
func (p pace) overdue(checked, now time.Time) bool {
	return now.Sub(checked) > p.interval+p.interval/5
}

// soon returns a time for one of so many apps that are all to be checked soon.
func (p pace) soon(now time.Time, apps int) time.Time {
	return now.Add(upTo(min(max(checkSoon, time.Duration(apps)*catchUp), max(checkSoon, p.interval))))
}

// upTo returns a random duration below d; 0 for none.
func upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d) //nolint:gosec // spreads checks, guards nothing
}
