package consumers

import (
	"math/rand/v2"
	"time"

	"backstop/streams/manifest"
)

// jitter spreads a delay by this share to both sides, so that events that
// failed together don't come back together.
const jitter = 0.2

// delay returns how long to wait after the given number of attempts (at least
// 1) before the next, spread by jitter. The app's Retry-After only ever
// lengthens it.
func delay(p manifest.RetryPolicy, attempts int, retryAfter time.Duration) time.Duration {
	d := unspread(p, attempts)
	spread := 1 + jitter*(2*rand.Float64()-1) //nolint:gosec // jitter needs no secrecy
	return max(time.Duration(float64(d)*spread), retryAfter)
}

// unspread is the delay before jitter, at most MaxDelay.
func unspread(p manifest.RetryPolicy, attempts int) time.Duration {
	d := p.InitialDelay
	switch p.Backoff {
	case manifest.Fixed:
	case manifest.Linear:
		if int64(attempts) > int64(p.MaxDelay/max(d, 1)) { // would exceed it, or overflow
			return p.MaxDelay
		}
		d *= time.Duration(attempts)
	default: // exponential
		for range attempts - 1 {
			if d *= 2; d >= p.MaxDelay {
				return p.MaxDelay
			}
		}
	}
	return min(d, p.MaxDelay)
}
