package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/bucket"
)

// GateState is why an endpoint gets no traffic, or only a little.
type GateState string

// The states that the breakers bucket records. An endpoint without an entry is
// closed: traffic flows.
const (
	// GateOpen: the breaker tripped; a probe is let through after Until.
	GateOpen GateState = "open"
	// GateHalfOpen: the wait was ended early, as the app seems to work again;
	// probes are let through now.
	GateHalfOpen GateState = "half-open"
	// GateForced: an operator opened the breaker; it stays so until reset.
	GateForced GateState = "forced-open"
	// GateDisabled: the app answered 410, or an operator disabled the
	// endpoint. Its events become dead letters until it is enabled.
	GateDisabled GateState = "disabled"
)

// Gate is one endpoint's entry in the breakers bucket, shared by all replicas.
type Gate struct {
	Capability string    `json:"capability"`
	App        string    `json:"app"`
	State      GateState `json:"state"`
	// Since is when the state began.
	Since time.Time `json:"since"`
	// Until is when an open gate lets a probe through. Zero for other states.
	Until time.Time `json:"until,omitzero"`
	// Reason says in words why.
	Reason string `json:"reason,omitempty"`
	// By is the replica, or the person, that set it.
	By string `json:"by,omitempty"`
}

// ID returns the gate's endpoint.
func (g Gate) ID() EndpointID { return EndpointID{Capability: g.Capability, App: g.App} }

// Gates reads and writes the breakers bucket.
type Gates struct{ kv jetstream.KeyValue }

// NewGates returns the gates that are kept in kv, the breakers bucket.
func NewGates(kv jetstream.KeyValue) *Gates { return &Gates{kv: kv} }

// Set records the gate of its endpoint, whatever was there before.
func (s *Gates) Set(ctx context.Context, g Gate) error {
	_, err := s.SetUnless(ctx, g, func(Gate) bool { return false })
	return err
}

// errKept says that an entry was left as it is.
var errKept = errors.New("the entry was left as it is")

// swapUnlessKept is bucket.Swap, with errKept for a change that decides against
// itself. It reports whether the key was written.
func swapUnlessKept(ctx context.Context, kv jetstream.KeyValue, key string, change func(old []byte) ([]byte, error)) (bool, error) {
	_, _, err := bucket.Swap(ctx, kv, key, change)
	if errors.Is(err, errKept) {
		return false, nil
	}
	return err == nil, err
}

// SetUnless records the gate unless the endpoint has one now for which keep
// answers true: a trip must not overwrite what an operator decided. It reports
// whether the gate was written.
func (s *Gates) SetUnless(ctx context.Context, g Gate, keep func(Gate) bool) (bool, error) {
	value, err := json.Marshal(g)
	if err != nil {
		return false, err
	}
	written, err := swapUnlessKept(ctx, s.kv, gateKey(g.ID()), func(old []byte) ([]byte, error) {
		// A value that is no gate is overwritten: nobody could mean it.
		if now, err := decodeGate(gateKey(g.ID()), old); old != nil && err == nil && keep(now) {
			return nil, errKept
		}
		return value, nil
	})
	if err != nil {
		return false, fmt.Errorf("record %s as %s: %w", g.ID(), g.State, err)
	}
	return written, nil
}

// Hasten ends the wait of an open gate at the given time rather than at its
// Until: it becomes half-open, for all replicas. A gate in another state, one
// whose wait is over, and an endpoint without a gate are left alone. It reports
// whether the gate was changed.
func (s *Gates) Hasten(ctx context.Context, id EndpointID, now time.Time, reason, by string) (bool, error) {
	changed, err := swapUnlessKept(ctx, s.kv, gateKey(id), func(old []byte) ([]byte, error) {
		if old == nil {
			return nil, errKept
		}
		g, err := decodeGate(gateKey(id), old)
		if err != nil || g.State != GateOpen || !g.Until.After(now) {
			return nil, errKept
		}
		g.State, g.Until, g.Reason, g.By = GateHalfOpen, time.Time{}, reason, by
		return json.Marshal(g)
	})
	if err != nil {
		return false, fmt.Errorf("let probes through to %s: %w", id, err)
	}
	return changed, nil
}

// ClearIf removes the endpoint's gate, which closes it, when match answers
// true for it. It reports whether there was one to remove.
func (s *Gates) ClearIf(ctx context.Context, id EndpointID, match func(Gate) bool) (bool, error) {
	for {
		now, revision, err := s.get(ctx, id)
		if err != nil || revision == 0 || !match(now) {
			return false, err
		}
		// Somebody else's change in between is looked at again.
		if err := bucket.Remove(ctx, s.kv, gateKey(id), revision); !errors.Is(err, bucket.ErrConflict) {
			return err == nil, err
		}
	}
}

// Repeat tells every replica once more what is recorded of the endpoint, also
// that nothing is: one that could not record yet what it holds of it, as while
// the bucket had no leader, gives that up. Nothing that is recorded changes, but
// for a breaker that trips in that very moment, and will trip again.
func (s *Gates) Repeat(ctx context.Context, id EndpointID) error {
	value, revision, err := bucket.Read(ctx, s.kv, gateKey(id))
	switch {
	case err != nil:
	case revision == 0:
		err = bucket.Remove(ctx, s.kv, gateKey(id), 0) // of any revision: what is told is the trace
	default:
		_, err = bucket.Write(ctx, s.kv, gateKey(id), value, revision)
	}
	if errors.Is(err, bucket.ErrConflict) {
		return nil // somebody has told them something newer
	}
	return err
}

// Get returns the endpoint's gate, and false when it is closed.
func (s *Gates) Get(ctx context.Context, id EndpointID) (Gate, bool, error) {
	g, revision, err := s.get(ctx, id)
	return g, revision != 0, err
}

func (s *Gates) get(ctx context.Context, id EndpointID) (Gate, uint64, error) {
	value, revision, err := bucket.Read(ctx, s.kv, gateKey(id))
	if err != nil || revision == 0 {
		return Gate{}, 0, err
	}
	g, err := decodeGate(gateKey(id), value)
	return g, revision, err
}

// List returns every gate that isn't closed, by capability and app.
func (s *Gates) List(ctx context.Context) ([]Gate, error) {
	entries, err := bucket.List(ctx, s.kv)
	if err != nil {
		return nil, err
	}
	gates := make([]Gate, 0, len(entries))
	for _, e := range entries {
		g, err := decodeGate(e.Key(), e.Value())
		if err != nil {
			return nil, err
		}
		gates = append(gates, g)
	}
	return gates, nil
}

// Watch calls apply for every gate, and with nil when one is gone, until ctx
// ends; loaded is called once, when all that was there has been applied. It
// survives the loss of the connection, and returns an error only when the
// connection was closed for good.
func (s *Gates) Watch(ctx context.Context, log *slog.Logger, loaded func(), apply func(EndpointID, *Gate)) error {
	return bucket.Watch(ctx, s.kv, log, func(c bucket.Change) {
		switch {
		case c.Loaded:
			loaded()
		case c.Removed:
			apply(gateID(c.Key), nil)
		default:
			g, err := decodeGate(c.Key, c.Value)
			if err != nil {
				log.Error("an entry of the breakers bucket was ignored", "error", err)
				return
			}
			apply(g.ID(), &g)
		}
	})
}

func gateKey(id EndpointID) string { return id.Capability + "." + id.App }

func gateID(key string) EndpointID {
	capability, app, _ := strings.Cut(key, ".")
	return EndpointID{Capability: capability, App: app}
}

// decodeGate reads an entry; its key decides on the endpoint, so that a value
// put by hand can't speak for another one.
func decodeGate(key string, value []byte) (Gate, error) {
	g := Gate{}
	if err := json.Unmarshal(value, &g); err != nil {
		return Gate{}, fmt.Errorf("entry %q of bucket %s is not a gate: %w", key, BreakersBucket, err)
	}
	id := gateID(key)
	g.Capability, g.App = id.Capability, id.App
	return g, nil
}
