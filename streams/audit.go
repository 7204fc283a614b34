package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// AuditWhat is what an operator changed; it is also the last token of the
// entry's subject.
type AuditWhat string

// What operators change.
const (
	AuditAppApplied       AuditWhat = "app_applied"
	AuditAppRemoved       AuditWhat = "app_removed"
	AuditSecretRotated    AuditWhat = "secret_rotated"
	AuditEndpointDisabled AuditWhat = "endpoint_disabled"
	AuditEndpointEnabled  AuditWhat = "endpoint_enabled"
	AuditBreakerOpened    AuditWhat = "breaker_opened"
	AuditBreakerReset     AuditWhat = "breaker_reset"
	AuditReplayed         AuditWhat = "dead_letters_replayed"
	AuditDiscarded        AuditWhat = "dead_letters_discarded"
	AuditPendingApproved  AuditWhat = "pending_approved"
	AuditPendingRejected  AuditWhat = "pending_rejected"
)

// AuditEntry is one change, on record in the AUDIT stream. It holds no secret
// and no payload.
type AuditEntry struct {
	// Time is when the change was about to be made.
	Time time.Time `json:"time"`
	// By is who made it: the name of a token, or user@host.
	By string `json:"by"`
	// Via is how: "api" or "command".
	Via string `json:"via"`
	// What was changed.
	What AuditWhat `json:"what"`
	// App, Capability and ID say to what; each may be empty.
	App        string `json:"app,omitempty"`
	Capability string `json:"capability,omitempty"`
	ID         string `json:"id,omitempty"`
	// Why is what the operator gave as the reason.
	Why string `json:"why,omitempty"`
	// Before and After are what it was and what it became, as JSON. Empty: there
	// was nothing, or is nothing any more.
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	// Failed says why the change, which an earlier entry announces, was not
	// made or not to the end. Empty for the announcement itself.
	Failed string `json:"failed,omitempty"`
	// Sequence is the entry's place in the stream; 0 before it is stored.
	Sequence uint64 `json:"sequence,omitempty"`
}

// Audit writes and reads the AUDIT stream.
type Audit struct{ js jetstream.JetStream }

// NewAudit returns the audit of js.
func NewAudit(js jetstream.JetStream) *Audit { return &Audit{js: js} }

// Record stores an entry and waits until the broker has it.
func (a *Audit) Record(ctx context.Context, e AuditEntry) error {
	e.Sequence = 0
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("put %s on record: %w", e.What, err)
	}
	msg := nats.NewMsg(string(Audits) + "." + string(e.What))
	msg.Data = data
	_, err = a.js.PublishMsg(ctx, msg, jetstream.WithExpectStream(AuditStream))
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		return fmt.Errorf("put %s on record: stream %s: %w", e.What, AuditStream, jetstream.ErrStreamNotFound)
	}
	if err != nil {
		return fmt.Errorf("put %s on record: %w", e.What, err)
	}
	return nil
}

// AuditFilter selects entries. The zero value selects all.
type AuditFilter struct {
	// What, App, Capability and By select exact matches when not empty.
	What                AuditWhat
	App, Capability, By string
	// Since selects those since then when not zero.
	Since time.Time
	// Before is a sequence: only entries before it, when not zero.
	Before uint64
}

func (f AuditFilter) match(e AuditEntry) bool {
	return (f.App == "" || f.App == e.App) && (f.Capability == "" || f.Capability == e.Capability) && (f.By == "" || f.By == e.By)
}

// Newest yields the entries that the filter matches, newest first. An error
// ends it.
func (a *Audit) Newest(ctx context.Context, f AuditFilter) iter.Seq2[AuditEntry, error] {
	return func(yield func(AuditEntry, error) bool) {
		if f.Before == 1 {
			return
		}
		if err := a.newest(ctx, f, func(e AuditEntry) bool { return yield(e, nil) }); err != nil {
			yield(AuditEntry{}, fmt.Errorf("read the audit: %w", err))
		}
	}
}

func (a *Audit) newest(ctx context.Context, f AuditFilter, visit func(AuditEntry) bool) (err error) {
	s := scan{stream: AuditStream, subject: string(Audits) + ".*", through: max(f.Before, 1) - 1}
	if f.What != "" {
		s.subject = string(Audits) + "." + string(f.What)
	}
	if !f.Since.IsZero() {
		if s.after, err = sequenceBefore(ctx, a.js, AuditStream, f.Since); err != nil {
			return err
		}
	}
	return backward(ctx, a.js, s, func(m stored) (AuditEntry, bool, error) {
		e := AuditEntry{}
		ours := json.Unmarshal(m.Data(), &e) == nil // one bad message must not hide the rest
		e.Sequence = m.sequence
		return e, ours && f.match(e), nil
	}, visit)
}
