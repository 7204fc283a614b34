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

// An answer that was long under way says little, and doesn't move the clock; one
// that can't be explained by its way does.
func TestBrokerClockIsSteady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c brokerClock
		c.set(time.Now(), time.Now())
		ask := func(way, back, ahead time.Duration) {
			asked := time.Now()
			<-time.After(way)
			told := time.Now().Add(ahead)
			<-time.After(back)
			c.set(told, asked)
		}
		for _, test := range []struct {
			why              string
			way, back, ahead time.Duration
			want             time.Duration // ahead of this machine's
		}{
			{"a fast answer", time.Millisecond, time.Millisecond, 0, 0},
			{"slow there", 2 * time.Second, 0, 0, 0},
			{"slow back", 0, 2 * time.Second, 0, 0},
			{"NATS's clock was set forward", time.Millisecond, time.Millisecond, time.Hour, time.Hour - time.Millisecond},
			{"and a little more than the way explains", time.Millisecond, time.Millisecond, time.Hour + 5*time.Millisecond, time.Hour + 4*time.Millisecond},
			{"and back", time.Millisecond, time.Millisecond, 0, time.Millisecond},
		} {
			ask(test.way, test.back, test.ahead)
			if got := time.Until(c.now()); got != test.want {
				t.Errorf("%s: it is ahead by %v, want %v", test.why, got, test.want)
			}
		}
	})
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
