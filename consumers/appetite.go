package consumers

import "github.com/nats-io/nats.go/jetstream"

// pullBytes is about how much memory one pull may take.
const pullBytes = 32 << 20

// appetite keeps pulls from taking much more memory than pullBytes: a lane asks
// for as many messages as would fit if all were as large as the largest of late.
// The zero value is ready to use. It belongs to the goroutine that pulls.
//
// The broker can't be asked to see to it. On three servers its word that a pull
// with a byte limit is complete overtakes the messages, which wait for the
// other servers; the client then no longer listens for them. They came again
// after the ack wait, to the same end: lanes that pull one by one stood still,
// until their events were dead letters for having been handed out too often.
type appetite struct{ largest int }

// firstGuess is the size that is assumed before anything was seen.
const firstGuess = pullBytes / 128

// seen notes a message's size. One that was large once is forgotten slowly.
func (a *appetite) seen(msg jetstream.Msg) {
	a.largest = max(len(msg.Data()), a.largest-a.largest/64)
}

// atMost returns n, or as many messages as are likely to fit, and at least one
// if n is.
func (a *appetite) atMost(n int) int {
	largest := a.largest
	if largest == 0 {
		largest = firstGuess
	}
	return min(n, max(pullBytes/largest, 1))
}
