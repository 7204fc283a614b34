package fallback

import (
	"context"
	"errors"

	"backstop/streams"
)

// pending keeps the request for a person. The same id a second time is the same
// request, whatever has been decided on it meanwhile.
func pending(store *streams.Pendings) strategy {
	return func(ctx context.Context, r request) (answer, error) {
		if store == nil {
			return answer{}, errors.New("there is no store of pending requests")
		}
		e, id := r.call.Event, r.call.Endpoint.EndpointID
		_, err := store.Create(ctx, streams.PendingRequest{
			ID: e.ID, App: id.App, Capability: id.Capability, Payload: e.Payload, Reason: string(r.reason),
			TraceParent: e.TraceParent, TraceState: e.TraceState,
		})
		if err != nil {
			return answer{}, err
		}
		return answer{source: streams.SourcePending, data: status(e.ID, streams.SourcePending)}, nil
	}
}
