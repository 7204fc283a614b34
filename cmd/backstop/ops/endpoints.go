package ops

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"backstop/streams"
)

// NotDeclaredError says that an app's manifest has no such webhook.
type NotDeclaredError struct {
	streams.EndpointID
	// Declared is what it has instead.
	Declared []string
}

func (e *NotDeclaredError) Error() string {
	return fmt.Sprintf("app %s declares no %q; it declares %s", e.App, e.Capability, strings.Join(e.Declared, ", "))
}

// DisabledError says that an endpoint is disabled, which is more than an open
// circuit: it has to be enabled first.
type DisabledError struct{ Gate streams.Gate }

func (e *DisabledError) Error() string {
	return fmt.Sprintf("%s is disabled, which is more than open", e.Gate.ID())
}

// GateState is what became of an endpoint's gate.
type GateState struct {
	App        string `json:"app"`
	Capability string `json:"capability"`
	// State is a streams.GateState, StateClosed or StateEnabled.
	State string `json:"state"`
	// Changed is false when it was so before.
	Changed bool `json:"changed"`
}

// States of a gate that the bucket has no entry for.
const (
	StateClosed  = "closed"
	StateEnabled = "enabled"
)

func stateOf(id streams.EndpointID, state string, changed bool) GateState {
	return GateState{App: id.App, Capability: id.Capability, State: state, Changed: changed}
}

// disabled tells whether an endpoint is switched off, which outranks a breaker.
func disabled(g streams.Gate) bool { return g.State == streams.GateDisabled }

// CheckDeclared returns a NotDeclaredError unless the endpoint is in its app's
// manifest.
func (o *Ops) CheckDeclared(ctx context.Context, id streams.EndpointID) error {
	m, _, err := o.Manifest(ctx, id.App)
	if err != nil {
		return err
	}
	if _, ok := m.Webhooks[id.Capability]; !ok {
		return &NotDeclaredError{id, slices.Sorted(maps.Keys(m.Webhooks))}
	}
	return nil
}

// declared returns the endpoint that is named, or all of the app's when the
// capability is empty.
func (o *Ops) declared(ctx context.Context, id streams.EndpointID) ([]streams.EndpointID, error) {
	if id.Capability != "" {
		return []streams.EndpointID{id}, o.CheckDeclared(ctx, id)
	}
	m, _, err := o.Manifest(ctx, id.App)
	if err != nil {
		return nil, err
	}
	ids := make([]streams.EndpointID, 0, len(m.Webhooks))
	for _, capability := range slices.Sorted(maps.Keys(m.Webhooks)) {
		ids = append(ids, m.EndpointID(capability))
	}
	return ids, nil
}

// Disable sends the endpoint nothing more, or all of an app's when id names no
// capability: their events become dead letters.
func (o *Ops) Disable(ctx context.Context, by Actor, id streams.EndpointID, why string) ([]GateState, error) {
	return o.eachDeclared(ctx, id, func(gates *streams.Gates, id streams.EndpointID) (GateState, error) {
		gate := streams.Gate{
			Capability: id.Capability, App: id.App, State: streams.GateDisabled, Since: time.Now().UTC(), Reason: why, By: by.Name,
		}
		// An endpoint that is disabled keeps who did it and why.
		changed, err := o.setGate(ctx, by, gates, streams.AuditEndpointDisabled, gate)
		if changed {
			o.announce(ctx, streams.NoticeEndpointDisabled, id, by, "disabled", why)
		}
		return stateOf(id, string(streams.GateDisabled), changed), err
	})
}

// Enable sends the endpoint webhooks again, or all of an app's when id names
// no capability. An open circuit is another matter, and stays. Where nothing is
// disabled the replicas are told so all the same: one may have disabled what an
// app wants no more (410) and not have had the bucket to record it in.
func (o *Ops) Enable(ctx context.Context, by Actor, id streams.EndpointID) ([]GateState, error) {
	return o.eachDeclared(ctx, id, func(gates *streams.Gates, id streams.EndpointID) (GateState, error) {
		changed, err := o.clearGate(ctx, by, gates, streams.AuditEndpointEnabled, id, disabled)
		if changed {
			o.announce(ctx, streams.NoticeEndpointEnabled, id, by, "enabled", "")
		} else if err == nil {
			err = gates.Repeat(ctx, id)
		}
		return stateOf(id, StateEnabled, changed), err
	})
}

func (o *Ops) eachDeclared(ctx context.Context, id streams.EndpointID, do func(*streams.Gates, streams.EndpointID) (GateState, error)) ([]GateState, error) {
	ids, err := o.declared(ctx, id)
	if err != nil {
		return nil, err
	}
	gates, err := o.gates(ctx)
	if err != nil {
		return nil, err
	}
	changes := []GateState{}
	for _, id := range ids {
		change, err := do(gates, id)
		if err != nil {
			return changes, err
		}
		changes = append(changes, change)
	}
	return changes, nil
}

// setGate records a gate unless the endpoint is disabled. It reports whether
// it did.
func (o *Ops) setGate(ctx context.Context, by Actor, gates *streams.Gates, what streams.AuditWhat, gate streams.Gate) (bool, error) {
	before, found, err := gates.Get(ctx, gate.ID())
	if err != nil || found && disabled(before) {
		return false, err
	}
	entry := streams.AuditEntry{What: what, App: gate.App, Capability: gate.Capability, Why: gate.Reason, After: document(gate)}
	if found {
		entry.Before = document(before)
	}
	written := false
	err = o.Change(ctx, by, entry, func() error {
		written, err = gates.SetUnless(ctx, gate, disabled)
		return faster(written, err)
	})
	return written, notFaster(err)
}

// clearGate removes the endpoint's gate if match answers true for it. It
// reports whether it did.
func (o *Ops) clearGate(ctx context.Context, by Actor, gates *streams.Gates, what streams.AuditWhat, id streams.EndpointID, match func(streams.Gate) bool) (bool, error) {
	before, found, err := gates.Get(ctx, id)
	if err != nil || !found || !match(before) {
		return false, err
	}
	cleared := false
	entry := streams.AuditEntry{What: what, App: id.App, Capability: id.Capability, Before: document(before)}
	err = o.Change(ctx, by, entry, func() error {
		cleared, err = gates.ClearIf(ctx, id, match)
		return faster(cleared, err)
	})
	return cleared, notFaster(err)
}

// announce tells people and services what an operator did to an endpoint. The
// pipeline announces only what it does itself. That nobody hears of it is no
// reason to fail: the gate is set.
func (o *Ops) announce(ctx context.Context, kind streams.NoticeKind, id streams.EndpointID, by Actor, did, why string) {
	message := fmt.Sprintf("%s %s %s", by.Name, did, id)
	if why != "" {
		message += ": " + why
	}
	notice := streams.Notice{
		Kind: kind, App: id.App, Capability: id.Capability, Time: time.Now().UTC(),
		Message: message, Details: map[string]any{"by": by.Name, "reason": why},
	}
	msg, err := notice.Msg()
	if err == nil {
		_, err = o.js.PublishMsg(ctx, msg)
	}
	if err != nil {
		o.cfg.Warn("done, but the notice of it could not be published: " + err.Error())
	}
}
