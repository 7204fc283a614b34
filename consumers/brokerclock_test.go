package consumers

import (
	"testing"
	"testing/synctest"
	"time"

	"backstop/streams"
)

// A machine whose clock is wrong waits for as long as one whose clock is right.
func TestBrokerClock(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"it is right": 0, "NATS is an hour ahead": time.Hour, "NATS is an hour behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c brokerClock
				asked := time.Now()
				elapse(20 * time.Millisecond) // the answer's way, of which half has passed since it was written
				c.set(asked.Add(10*time.Millisecond+ahead), asked)
				elapse(3 * time.Second)
				if got, want := c.now(), time.Now().Add(ahead); !got.Equal(want) {
					t.Errorf("it is %v there, want %v", got, want)
				}
				until := time.Now().Add(time.Minute)
				if got := c.theirs(until); !got.Equal(until.Add(ahead)) {
					t.Errorf("%v here is %v there, want %v", until, got, until.Add(ahead))
				}
				g := c.gate(&streams.Gate{State: streams.GateOpen, Until: until.Add(ahead)})
				if !g.Until.Equal(until) {
					t.Errorf("a gate until %v there is one until %v here, want %v", until.Add(ahead), g.Until, until)
				}
			})
		})
	}
}

// No time stays no time, and before NATS has answered the machine's clock has to do.
func TestBrokerClockUnset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c brokerClock
		if got := c.now(); !got.Equal(time.Now()) {
			t.Errorf("it is %v, want %v", got, time.Now())
		}
		if !c.theirs(time.Time{}).IsZero() || !c.ours(time.Time{}).IsZero() || c.gate(nil) != nil {
			t.Error("no time became one")
		}
	})
}

// elapse lets a bubble's time pass.
func elapse(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // in a bubble it is the thing itself
