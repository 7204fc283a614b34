package ops

import (
	"context"

	"backstop/streams"
)

// pendings opens the bucket of calls that wait for a person.
func (o *Ops) pendings(ctx context.Context) (*streams.Pendings, error) {
	kv, err := o.js.KeyValue(ctx, streams.PendingBucket)
	if err != nil {
		return nil, err
	}
	return streams.NewPendings(kv), nil
}

// Pending returns the calls that wait for a person, and those that were decided
// within the last 7 days, oldest first.
func (o *Ops) Pending(ctx context.Context) ([]streams.PendingRequest, error) {
	s, err := o.pendings(ctx)
	if err != nil {
		return nil, err
	}
	return s.List(ctx)
}

// PendingCall returns one of them; the errors are those of streams.Pendings.Get.
func (o *Ops) PendingCall(ctx context.Context, id string) (streams.PendingRequest, error) {
	s, err := o.pendings(ctx)
	if err != nil {
		return streams.PendingRequest{}, err
	}
	return s.Get(ctx, id)
}

// DecidePending approves or rejects a waiting call, and returns it as decided;
// the errors are those of streams.Pendings.Decide. The pipeline carries the
// decision out.
func (o *Ops) DecidePending(ctx context.Context, by Actor, id string, approve bool, why string) (streams.PendingRequest, error) {
	s, err := o.pendings(ctx)
	if err != nil {
		return streams.PendingRequest{}, err
	}
	call, err := s.Get(ctx, id)
	if err != nil {
		return streams.PendingRequest{}, err
	}
	if call.State != streams.PendingWaiting {
		return streams.PendingRequest{}, &streams.DecidedError{Request: call}
	}
	what := streams.AuditPendingRejected
	if approve {
		what = streams.AuditPendingApproved
	}
	entry := streams.AuditEntry{What: what, App: call.App, Capability: call.Capability, ID: call.ID, Why: why}
	err = o.Change(ctx, by, entry, func() error {
		call, err = s.Decide(ctx, call.Key(), approve, by.Name, why)
		return err
	})
	return call, err
}
