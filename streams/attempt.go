package streams

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Attempt is an entry of the delivery log: one HTTP request to an endpoint, or
// one that was refused.
type Attempt struct {
	ID         string    `json:"id"` // X-Request-ID
	App        string    `json:"app"`
	Capability string    `json:"capability"`
	Time       time.Time `json:"time"` // when the attempt began
	// Attempt is its number, from 1.
	Attempt    int     `json:"attempt"`
	DurationMs float64 `json:"durationMs"`
	// Call says that somebody waited for the answer; false for an event.
	Call bool `json:"call,omitempty"`
	// Requested says that an HTTP request was made.
	Requested bool `json:"requested"`
	// Success says that the app did its part: an event was delivered, a call
	// was answered, be it with the app's own "no".
	Success bool `json:"success"`
	// Verdict is "delivered", "retry", "rejected" or "refused".
	Verdict string `json:"verdict"`
	// Reason says why it was not delivered; empty when it was.
	Reason string `json:"reason,omitempty"`
	// Status is the HTTP status; 0 when there was no answer.
	Status   int    `json:"status,omitempty"`
	TimedOut bool   `json:"timedOut,omitempty"`
	Error    string `json:"error,omitempty"`
	// Answer is the first bytes of an answer that was not good, without what
	// may be secret or personal.
	Answer string `json:"answer,omitempty"`

	// Sequence is the entry's place in the log; 0 before it is stored.
	Sequence uint64 `json:"sequence,omitempty"`
}

// Endpoint is where the attempt was made.
func (a Attempt) Endpoint() EndpointID { return EndpointID{Capability: a.Capability, App: a.App} }

// Msg returns the message that stores the entry on attempts.<capability>.<app>.
func (a Attempt) Msg() (*nats.Msg, error) {
	a.Sequence = 0
	data, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	msg := nats.NewMsg(a.Endpoint().Subject(Attempts))
	msg.Data = data
	return msg, nil
}

// decodeAttempt reads an entry. Its subject decides on the endpoint.
func decodeAttempt(m stored) (Attempt, error) {
	kind, id, err := ParseSubject(m.Subject())
	if err == nil && kind != Attempts {
		err = fmt.Errorf("a message on %s is not an entry of the delivery log", m.Subject())
	}
	a := Attempt{}
	if err == nil {
		err = json.Unmarshal(m.Data(), &a)
	}
	if err != nil {
		return Attempt{}, fmt.Errorf("entry %d of the delivery log can't be read: %w", m.sequence, err)
	}
	a.Capability, a.App, a.Sequence = id.Capability, id.App, m.sequence
	return a, nil
}
