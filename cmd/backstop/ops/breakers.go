package ops

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"backstop/streams"
)

// errFaster says that somebody else changed the same at the same time.
var errFaster = errors.New("somebody else was faster")

func faster(changed bool, err error) error {
	if err == nil && !changed {
		return errFaster
	}
	return err
}

func notFaster(err error) error {
	if errors.Is(err, errFaster) {
		return nil
	}
	return err
}

// Gates returns the gates in the order of their names, never nil.
func (o *Ops) Gates(ctx context.Context) ([]streams.Gate, error) {
	s, err := o.gates(ctx)
	if err != nil {
		return nil, err
	}
	gates, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(gates, func(x, y streams.Gate) int { return strings.Compare(x.ID().String(), y.ID().String()) })
	return append([]streams.Gate{}, gates...), nil
}

// OpenBreaker opens the circuit of an endpoint until it is reset. The error is
// a DisabledError for an endpoint that is disabled.
func (o *Ops) OpenBreaker(ctx context.Context, by Actor, id streams.EndpointID, why string) (GateState, error) {
	if err := o.CheckDeclared(ctx, id); err != nil {
		return GateState{}, err
	}
	gates, err := o.gates(ctx)
	if err != nil {
		return GateState{}, err
	}
	gate := streams.Gate{
		Capability: id.Capability, App: id.App, State: streams.GateForced, Since: time.Now().UTC(), Reason: why, By: by.Name,
	}
	written, err := o.setGate(ctx, by, gates, streams.AuditBreakerOpened, gate)
	if err != nil {
		return GateState{}, err
	}
	if !written {
		return GateState{}, o.disabledError(ctx, gates, id)
	}
	o.announce(ctx, streams.NoticeBreakerOpened, id, by, "opened the circuit of", why)
	return stateOf(id, string(streams.GateForced), true), nil
}

func (o *Ops) disabledError(ctx context.Context, gates *streams.Gates, id streams.EndpointID) error {
	gate, _, err := gates.Get(ctx, id)
	if err != nil {
		return err
	}
	gate.App, gate.Capability = id.App, id.Capability
	return &DisabledError{gate}
}

// ResetBreaker closes the circuit of an endpoint, whether it tripped or was
// opened by hand. A circuit that was closed all the time is no error, while a
// name that is wrong and an endpoint that is disabled are.
func (o *Ops) ResetBreaker(ctx context.Context, by Actor, id streams.EndpointID) (GateState, error) {
	gates, err := o.gates(ctx)
	if err != nil {
		return GateState{}, err
	}
	cleared, err := o.clearGate(ctx, by, gates, streams.AuditBreakerReset, id, func(g streams.Gate) bool { return !disabled(g) })
	if err != nil {
		return GateState{}, err
	}
	if cleared {
		o.announce(ctx, streams.NoticeBreakerClosed, id, by, "reset the circuit of", "")
		return stateOf(id, StateClosed, true), nil
	}
	gate, found, err := gates.Get(ctx, id)
	if err != nil {
		return GateState{}, err
	}
	if found && disabled(gate) {
		return GateState{}, &DisabledError{gate}
	}
	if err := o.CheckDeclared(ctx, id); err != nil {
		return stateOf(id, StateClosed, false), err
	}
	return stateOf(id, StateClosed, false), gates.Repeat(ctx, id) // as Enable does
}
