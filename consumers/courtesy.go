package consumers

import (
	"time"

	"backstop/streams"
)

// How long the pull of a shared lane may be held up for one endpoint.
const (
	courtesyWindow = 10 * time.Second
	courtesyBudget = time.Second
)

// courtesy decides whether a lane's pull may wait for an endpoint whose mailbox
// is full but moves: a fast app that has a backlog, as after a downtime. Moving
// its events to a lane of its own would store each a second time. It may wait
// as long as it likes while no other endpoint's events come through the lane,
// and else for a tenth of the time; beyond that the endpoint's events are
// parked, so that the others don't queue behind its backlog.
//
// The zero value is ready. Only the pulling goroutine uses it.
type courtesy struct {
	began time.Time          // of the current window
	alone streams.EndpointID // the first endpoint seen in this window
	mixed bool               // there were others in it
	last  bool               // there were others in the last window
	spent map[*endpoint]time.Duration
}

// seen notes an event on its way through the lane.
func (c *courtesy) seen(id streams.EndpointID, now time.Time) {
	if now.Sub(c.began) > courtesyWindow {
		c.began, c.alone, c.last, c.mixed, c.spent = now, id, c.mixed, false, nil
	}
	c.mixed = c.mixed || c.alone != id
}

// mayWait tells whether the pull may be held up for the endpoint.
func (c *courtesy) mayWait(e *endpoint) bool {
	return !c.mixed && !c.last || c.spent[e] < courtesyBudget
}

// waited notes how long the pull was held up for the endpoint.
func (c *courtesy) waited(e *endpoint, d time.Duration) {
	if c.spent == nil {
		c.spent = make(map[*endpoint]time.Duration)
	}
	c.spent[e] += d
}
