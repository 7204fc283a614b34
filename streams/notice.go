package streams

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
)

// NoticeKind is what a notice is about; it is also the last token of its subject.
type NoticeKind string

// The kinds of the contract's section 10, and NoticeDiscarded, the record of
// who discarded a dead letter.
const (
	NoticeFallbackUsed     NoticeKind = "fallback_used"
	NoticePendingCreated   NoticeKind = "pending_created"
	NoticeBreakerOpened    NoticeKind = "breaker_opened"
	NoticeBreakerClosed    NoticeKind = "breaker_closed"
	NoticeEndpointDisabled NoticeKind = "endpoint_disabled"
	NoticeEndpointEnabled  NoticeKind = "endpoint_enabled"
	NoticeMisconfigured    NoticeKind = "misconfigured"
	NoticeDeadLettered     NoticeKind = "dead_lettered"
	NoticeCallbackMissing  NoticeKind = "callback_missing"
	NoticeAppUnhealthy     NoticeKind = "app_unhealthy"
	NoticeAppHealthy       NoticeKind = "app_healthy"
	NoticeAlertRaised      NoticeKind = "alert_raised"
	NoticeAlertCleared     NoticeKind = "alert_cleared"
	NoticeDiscarded        NoticeKind = "discarded"
)

// Notice is something that a person or a service should know.
type Notice struct {
	Kind       NoticeKind     `json:"kind"`
	App        string         `json:"app"`
	Capability string         `json:"capability"`
	Time       time.Time      `json:"time"`
	Message    string         `json:"message"`
	Details    map[string]any `json:"details,omitempty"`

	// Sequence is its place in NOTICES; 0 before it is stored.
	Sequence uint64 `json:"sequence,omitempty"`
}

// Msg returns the message that publishes the notice on notices.<kind>.
func (n Notice) Msg() (*nats.Msg, error) {
	n.Sequence = 0
	data, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	msg := nats.NewMsg(NoticeSubject(string(n.Kind)))
	msg.Data = data
	return msg, nil
}
