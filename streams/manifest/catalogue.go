package manifest

import (
	"time"

	"backstop/streams"
)

// Kind says how a capability's work is delegated.
type Kind string

// The kinds of capability.
const (
	KindCall  Kind = "call"  // somebody waits for the answer
	KindEvent Kind = "event" // nobody does
)

// Capability is what the platform agreed with all apps about one kind of
// delegated work.
type Capability struct {
	Name string
	Kind Kind
	// Timeout is how long an attempt may take unless the manifest or the
	// settings say otherwise.
	Timeout time.Duration
	// MaxTimeout is the longest that a manifest may ask for.
	MaxTimeout time.Duration
	// Fallback answers a call when the manifest lists nothing.
	Fallback []Strategy
}

// Timeouts of capabilities that aren't built in. A call has a person behind
// it, who won't wait longer than 10 s; an event has half a minute, as the
// platform's own events do.
const (
	customCallTimeout  = 10 * time.Second
	customEventTimeout = 30 * time.Second
)

// Capabilities returns the built-in capabilities, calls first. The caller may
// change what it gets.
func Capabilities() []Capability {
	answer := func(handler string) []Strategy {
		return []Strategy{{Strategy: StrategyDefault, Handler: handler}}
	}
	call := func(name string, timeout time.Duration, fallback []Strategy) Capability {
		return Capability{Name: name, Kind: KindCall, Timeout: timeout, MaxTimeout: timeout, Fallback: fallback}
	}
	event := func(name string) Capability {
		return Capability{Name: name, Kind: KindEvent, Timeout: customEventTimeout, MaxTimeout: customEventTimeout}
	}
	return []Capability{
		call("quizAnswer", 2*time.Second, answer(HandlerReject)),
		call("winnerSelection", 5*time.Second, answer(HandlerRandomSelection)),
		call("participantRegistration", 3*time.Second, []Strategy{{Strategy: StrategyPending}}),
		call("quizRules", 2*time.Second, []Strategy{{Strategy: StrategyCached}}),
		event("notification"),
		event("analytics"),
		event("email"),
		event("report"),
		event("dataSync"),
	}
}

// Lookup returns the built-in capability of that name. For any other name it
// returns a call without fallback, and false; a manifest that declares such a
// webhook async gets an event's timeouts.
func Lookup(name string) (Capability, bool) {
	for _, c := range Capabilities() {
		if c.Name == name {
			return c, true
		}
	}
	return Capability{Name: name, Kind: KindCall, Timeout: customCallTimeout, MaxTimeout: customCallTimeout}, false
}

// capability returns what holds for a webhook: the catalogue's entry, with the
// timeouts of an event when a name that isn't built in is declared async.
func capability(name string, async *bool) Capability {
	c, builtin := Lookup(name)
	if !builtin && async != nil && *async {
		c.Kind, c.Timeout, c.MaxTimeout = KindEvent, customEventTimeout, customEventTimeout
	}
	return c
}

// EndpointID returns the id of the app's webhook for the capability.
func (m Manifest) EndpointID(capability string) streams.EndpointID {
	return streams.EndpointID{Capability: capability, App: m.AppID}
}
