package fallback

import (
	"context"
	"errors"
	"time"

	"backstop/streams"
)

// queue makes the call an event for the same endpoint, with the same id. When
// the publish is too slow, the event may be delivered although another
// strategy has answered by then.
func queue(store func(context.Context, streams.Event) error) strategy {
	return func(ctx context.Context, r request) (answer, error) {
		if store == nil {
			return answer{}, errors.New("there is no queue")
		}
		if err := store(ctx, eventOf(r, time.Now())); err != nil {
			return answer{}, err
		}
		return answer{source: streams.SourceQueued, data: status(r.call.Event.ID, streams.SourceQueued)}, nil
	}
}

// eventOf is the call as an event, from now on. The attempt that was made for
// the caller is not the event's.
func eventOf(r request, now time.Time) streams.Event {
	e := r.call.Event
	e.EndpointID = r.call.Endpoint.EndpointID
	if e.PublishedAt.IsZero() {
		e.PublishedAt = now
	}
	e.Attempts, e.Hops, e.NotBefore = 0, 0, time.Time{}
	return e
}

// status is the data of an answer that says that the answer comes later.
func status(id string, now streams.Source) []byte {
	data, err := spelled(struct {
		ID     string         `json:"id"`
		Status streams.Source `json:"status"`
	}{id, now})
	if err != nil { // not reached: strings can always be marshalled
		return nil
	}
	return data
}
