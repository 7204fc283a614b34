package streams

import (
	"encoding/json"
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
	// Verdict is "delivered", "retry", "rejected" or "refused".
	Verdict string `json:"verdict"`
	// Reason says why it was not delivered; empty when it was.
	Reason string `json:"reason,omitempty"`
	// Status is the HTTP status; 0 when there was no answer.
	Status   int    `json:"status,omitempty"`
	TimedOut bool   `json:"timedOut,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Msg returns the message that stores the entry on attempts.<capability>.<app>.
func (a Attempt) Msg() (*nats.Msg, error) {
	data, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	msg := nats.NewMsg(EndpointID{Capability: a.Capability, App: a.App}.Subject(Attempts))
	msg.Data = data
	return msg, nil
}
