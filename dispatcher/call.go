package dispatcher

import (
	"net/http"

	"backstop/streams"
	"backstop/streams/manifest"
)

// Call is one attempt about to be made: an event or a call, its endpoint, and
// the attempt's number.
type Call struct {
	// Event is what is sent.
	Event streams.Event
	// Endpoint is where it is sent, with every default filled in.
	Endpoint manifest.Endpoint
	// Attempt is this attempt's number, from 1.
	Attempt int
	// Sync says that somebody waits for the answer: the rules of the
	// contract's section 6 for calls apply rather than those for events.
	Sync bool
	// Refuse says that no request may be made, and why: ReasonDisabled,
	// ReasonRateLimited, ReasonCircuitOpen also while another process probes the
	// app, or ReasonLocal for a call whose app another process may have asked.
	// Empty: one may. See Refuse, the stage.
	Refuse Reason
	// Header is what stages add to the request, by SetHeader. It is nil until one does.
	Header http.Header
}

// SetHeader sets a header of the request, making the map when it is the first.
func (c *Call) SetHeader(key, value string) {
	if c.Header == nil {
		c.Header = make(http.Header, maxHeaders)
	}
	c.Header[http.CanonicalHeaderKey(key)] = []string{value}
}
