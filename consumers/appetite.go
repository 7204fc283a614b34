package consumers

import (
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// What this process asks NATS for at once, and what it holds.
const (
	// inTransit is about how many bytes may be on their way to this process.
	// nats-server cuts off a connection for which more than its max_pending
	// waits, 64 MiB by default. Eight lanes that asked for 32 MiB each, as they
	// did once, of events of 256 KiB, lost the connection over and over and
	// delivered 20 to 140 events a second, where 300 were possible.
	inTransit = 32 << 20
	// mostHeld is about how many bytes of events all shared lanes may hold
	// together, and all own lanes. A flood of large events waits at the broker,
	// and not in memory.
	mostHeld = 256 << 20
	// leastPull is what an own lane may ask for however many others there are,
	// of which few pull at the same moment.
	leastPull = 64 << 10
	// leastHeld is what a shared lane may hold however much others do: some of
	// the largest.
	leastHeld = 4 * streams.MaxPayload
)

// rations deal out inTransit to the lanes of this process, half to the shared
// ones, half to the own ones, and tell how much is left of mostHeld. That is no
// lane's share: lanes that are idle hold nothing, and one that was dealt a
// thirtieth was soon full of what hanging apps had in hand. The zero value is
// ready to use.
type rations struct {
	shared, own         atomic.Int64 // lanes that run
	sharedHeld, ownHeld atomic.Int64 // bytes that they hold
}

// join counts a lane in until the returned function is called.
func join(lanes *atomic.Int64) (leave func()) {
	lanes.Add(1)
	return func() { lanes.Add(-1) }
}

// sharedPull is how many bytes one pull of a shared lane may ask for.
func (r *rations) sharedPull() int { return share(&r.shared, 0) }

// ownPull is how many one of an own lane may.
func (r *rations) ownPull() int { return share(&r.own, leastPull) }

func share(lanes *atomic.Int64, least int) int {
	return max(inTransit/2/max(int(lanes.Load()), 1), least)
}

// room is how many bytes a shared lane that holds so many may take on, which
// may be less than none.
func (r *rations) room(holds int) int {
	return max(mostHeld-int(r.sharedHeld.Load()), leastHeld-holds)
}

// crowded tells whether own lanes hold as much as they may.
func (r *rations) crowded() bool { return r.ownHeld.Load() > mostHeld }

// appetite keeps pulls within a number of bytes: a lane asks for as many
// messages as would fit if all were as large as the largest of late. The zero
// value is ready to use. It belongs to the goroutine that pulls.
//
// The broker can't be asked to see to it. On three servers its word that a pull
// with a byte limit is complete overtakes the messages, which wait for the
// other servers; the client then no longer listens for them. They came again
// after the ack wait, to the same end: lanes that pull one by one stood still,
// until their events were dead letters for having been handed out too often.
type appetite struct{ largest int }

// seen notes a message's size. One that was large once is forgotten slowly, so
// that the next one doesn't come by the hundred.
func (a *appetite) seen(msg jetstream.Msg) {
	a.largest = max(len(msg.Data()), a.largest-a.largest/512-1)
}

// atMost returns n, or as many messages as are likely to fit into so many
// bytes, and at least one if n is. Before any was seen, all are taken for as
// large as they may be.
func (a *appetite) atMost(n, bytes int) int {
	largest := a.largest
	if largest == 0 {
		largest = streams.MaxPayload
	}
	return min(n, max(bytes/largest, 1))
}
