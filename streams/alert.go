package streams

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/bucket"
)

// AlertRule says what is the matter.
type AlertRule string

// The rules of the contract's section 10.
const (
	AlertSuccessRate AlertRule = "success_rate" // too few attempts of an endpoint succeed
	AlertSlow        AlertRule = "slow"         // an endpoint's answers come close to its timeout
	AlertBreakerOpen AlertRule = "breaker_open" // an endpoint's breaker opened
	AlertDeadLetters AlertRule = "dead_letters" // too many dead letters wait for a decision
)

// AlertKey names an alert: at most one of a rule is raised for an endpoint.
type AlertKey struct {
	Rule AlertRule `json:"rule"`
	// App and Capability say where; empty for dead letters, which are counted
	// over all endpoints.
	App        string `json:"app"`
	Capability string `json:"capability"`
}

// ID returns the alert's endpoint.
func (k AlertKey) ID() EndpointID { return EndpointID{Capability: k.Capability, App: k.App} }

// String returns "<rule>" or "<rule>.<capability>.<app>", the alert's key in its bucket.
func (k AlertKey) String() string {
	if k.App == "" {
		return string(k.Rule)
	}
	return string(k.Rule) + "." + k.Capability + "." + k.App
}

// Alert is something that is the matter, from when it was raised until it is
// cleared.
type Alert struct {
	AlertKey
	// Since is when it was raised.
	Since time.Time `json:"since"`
	// Value is what was measured when it was raised, or cleared, and Threshold
	// what raises it: a share of 1, milliseconds, or a count. Zero for a breaker.
	Value     float64 `json:"value"`
	Threshold float64 `json:"threshold"`
	// Message says it in words.
	Message string `json:"message"`
	// Details are what a person looks at next, by rule.
	Details map[string]any `json:"details,omitempty"`
	// Announced says that its notice is published.
	Announced bool `json:"announced,omitempty"`
	// ClearedAt is set between the decision that the alert is over and the
	// notice of it; the entry is removed then.
	ClearedAt time.Time `json:"clearedAt,omitzero"`
}

// Active tells whether the alert is still raised.
func (a Alert) Active() bool { return a.ClearedAt.IsZero() }

// Notice returns what tells people that the alert was raised or, once ClearedAt
// is set, cleared.
func (a Alert) Notice() Notice {
	n := Notice{
		Kind: NoticeAlertRaised, App: a.App, Capability: a.Capability, Time: a.Since, Message: a.Message,
		Details: map[string]any{"rule": a.Rule, "since": a.Since, "value": a.Value, "threshold": a.Threshold},
	}
	maps.Copy(n.Details, a.Details)
	if !a.Active() {
		n.Kind, n.Time = NoticeAlertCleared, a.ClearedAt
	}
	return n
}

// Alerts reads and writes the alerts bucket.
type Alerts struct{ kv jetstream.KeyValue }

// NewAlerts returns the alerts that are kept in kv, the alerts bucket.
func NewAlerts(kv jetstream.KeyValue) *Alerts { return &Alerts{kv: kv} }

// Raise records a new alert, unless there is an entry already. It reports
// whether it was recorded. Publish its notice, then call Announce.
func (s *Alerts) Raise(ctx context.Context, a Alert) (bool, error) {
	return s.change(ctx, a, func(old *Alert) bool { return old == nil })
}

// Clear records that the alert is over, unless that is done or it is another
// one by now. It reports whether it was recorded. Publish its notice, then call
// Announce, which removes it.
func (s *Alerts) Clear(ctx context.Context, a Alert) (bool, error) {
	return s.change(ctx, a, func(old *Alert) bool { return old != nil && old.Active() && old.Since.Equal(a.Since) })
}

// Announce records that the alert's notice is published; once it was cleared,
// nothing of it is left.
func (s *Alerts) Announce(ctx context.Context, a Alert) error {
	if !a.Active() {
		return s.remove(ctx, a.AlertKey)
	}
	a.Announced = true
	_, err := s.change(ctx, a, func(old *Alert) bool { return old != nil && old.Active() && old.Since.Equal(a.Since) })
	return err
}

// change writes the alert if may answers true for what is there now.
func (s *Alerts) change(ctx context.Context, a Alert, may func(old *Alert) bool) (bool, error) {
	value, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	changed, err := swapUnlessKept(ctx, s.kv, a.String(), func(old []byte) ([]byte, error) {
		var now *Alert
		if old != nil {
			// A value that is no alert is overwritten: nobody could mean it.
			if decoded, err := decodeAlert(a.String(), old); err == nil {
				now = &decoded
			}
		}
		if !may(now) {
			return nil, errKept
		}
		return value, nil
	})
	if err != nil {
		return false, fmt.Errorf("record the alert %s: %w", a.AlertKey, err)
	}
	return changed, nil
}

func (s *Alerts) remove(ctx context.Context, k AlertKey) error {
	_, revision, err := bucket.Read(ctx, s.kv, k.String())
	if err != nil || revision == 0 {
		return err
	}
	return bucket.Remove(ctx, s.kv, k.String(), revision)
}

// All returns every entry, also those that are just being cleared. What
// somebody put there that is no alert is left out: it must not hide the others.
func (s *Alerts) All(ctx context.Context) ([]Alert, error) {
	entries, err := bucket.List(ctx, s.kv)
	if err != nil {
		return nil, err
	}
	alerts := make([]Alert, 0, len(entries))
	for _, e := range entries {
		if a, err := decodeAlert(e.Key(), e.Value()); err == nil {
			alerts = append(alerts, a)
		}
	}
	return alerts, nil
}

// List returns the alerts that are raised, the longest first.
func (s *Alerts) List(ctx context.Context) ([]Alert, error) {
	alerts, err := s.All(ctx)
	if err != nil {
		return nil, err
	}
	alerts = slices.DeleteFunc(alerts, func(a Alert) bool { return !a.Active() })
	slices.SortFunc(alerts, func(a, b Alert) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.String(), b.String()))
	})
	return alerts, nil
}

func decodeAlert(key string, value []byte) (Alert, error) {
	a := Alert{}
	err := json.Unmarshal(value, &a)
	if err == nil && a.String() != key {
		err = fmt.Errorf("it calls itself %q", a.String())
	}
	if err != nil {
		return Alert{}, fmt.Errorf("entry %q of bucket %s is not an alert: %w", key, AlertsBucket, err)
	}
	return a, nil
}
