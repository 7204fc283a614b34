package streams

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/bucket"
)

// HealthState is how an app is, as far as its health checks tell.
type HealthState string

// The states.
const (
	Healthy   HealthState = "healthy"
	Degraded  HealthState = "degraded"  // it answers, but slowly, or says itself that not all is well
	Unhealthy HealthState = "unhealthy" // no answer, or one that isn't 2xx
	// HealthUnknown: nobody knows yet; as a result, nothing was learnt.
	HealthUnknown HealthState = "unknown"
)

// MetricsState says whether an app shows metrics of its own.
type MetricsState string

// The states.
const (
	MetricsPresent MetricsState = "present" // metrics in Prometheus's text format
	MetricsMissing MetricsState = "missing" // none where the manifest says, or it says nothing
	MetricsUnknown MetricsState = "unknown" // not looked for yet
)

// Health is one app's entry in the health bucket: how it is, and the last check
// of it. An app whose manifest has no "health" has no entry.
type Health struct {
	App string `json:"app"`
	// State is the app's state. It changes only when two checks in a row say
	// so; see Result for the last one alone.
	State HealthState `json:"state"`
	// Since is when the state began.
	Since time.Time `json:"since"`
	// CheckedAt is when the last check began.
	CheckedAt time.Time `json:"checkedAt"`
	// Result is what the last check said.
	Result HealthState `json:"result"`
	// Status is its HTTP status; 0 when there was no answer.
	Status int `json:"status"`
	// DurationMs is how long it took, in milliseconds.
	DurationMs int64 `json:"durationMs"`
	// Reason is why it wasn't good, in the words of a call's reply: "timeout",
	// "connection", "status", "blocked_address". Empty for a good one, and for
	// one that is slow or that the app itself calls bad.
	Reason string `json:"reason,omitempty"`
	// Error says why in a sentence, in one line. Empty when it was good.
	Error string `json:"error,omitempty"`
	// Failures is how many checks in a row were unhealthy, by the time of the
	// entry; while that goes on, entries are written once an interval.
	Failures int `json:"consecutiveFailures"`
	// Metrics says whether the app shows metrics.
	Metrics MetricsState `json:"metrics"`
	// By is the replica that checked.
	By string `json:"by,omitempty"`

	// Revision is the bucket's revision of the entry; 0 when it isn't stored.
	Revision uint64 `json:"-"`
}

// Healths reads and writes the health bucket.
type Healths struct{ kv jetstream.KeyValue }

// NewHealths returns the entries that are kept in kv, the health bucket.
func NewHealths(kv jetstream.KeyValue) *Healths { return &Healths{kv: kv} }

// Put stores the entry of an app if the stored one has the entry's Revision
// still, and returns the new revision, or bucket.ErrConflict.
func (s *Healths) Put(ctx context.Context, h Health) (uint64, error) {
	value, err := json.Marshal(h)
	if err != nil {
		return 0, err
	}
	return bucket.Write(ctx, s.kv, h.App, value, h.Revision)
}

// Get returns the entry of an app, and false when there is none.
func (s *Healths) Get(ctx context.Context, app string) (Health, bool, error) {
	value, revision, err := bucket.Read(ctx, s.kv, app)
	if err != nil || revision == 0 {
		return Health{}, false, err
	}
	return decodeHealth(app, value, revision), true, nil
}

// List returns every entry, by app.
func (s *Healths) List(ctx context.Context) ([]Health, error) {
	entries, err := bucket.List(ctx, s.kv)
	if err != nil {
		return nil, err
	}
	list := make([]Health, 0, len(entries))
	for _, e := range entries {
		list = append(list, decodeHealth(e.Key(), e.Value(), e.Revision()))
	}
	return list, nil
}

// Remove removes the entry of an app. None is no error.
func (s *Healths) Remove(ctx context.Context, app string) error {
	for {
		_, revision, err := bucket.Read(ctx, s.kv, app)
		if err != nil || revision == 0 {
			return err
		}
		if err := bucket.Remove(ctx, s.kv, app, revision); !errors.Is(err, bucket.ErrConflict) {
			return err
		}
	}
}

// Watch calls apply for every entry, and with nil when one is gone, until ctx
// ends; loaded is called once, when all that was there has been applied. It
// survives the loss of the connection, and returns an error only when the
// connection was closed for good.
func (s *Healths) Watch(ctx context.Context, log *slog.Logger, loaded func(), apply func(app string, h *Health)) error {
	return bucket.Watch(ctx, s.kv, log, func(c bucket.Change) {
		switch {
		case c.Loaded:
			loaded()
		case c.Removed:
			apply(c.Key, nil)
		default:
			h := decodeHealth(c.Key, c.Value, c.Revision)
			apply(c.Key, &h)
		}
	})
}

// decodeHealth reads an entry; its key decides on the app. A value that is no
// entry says nothing, and the next check overwrites it.
func decodeHealth(key string, value []byte, revision uint64) Health {
	var h Health
	if err := json.Unmarshal(value, &h); err != nil {
		h = Health{State: HealthUnknown, Result: HealthUnknown, Metrics: MetricsUnknown, Error: "the entry can't be read; the next check replaces it"}
	}
	h.App, h.Revision = key, revision
	return h
}
