package consumers

import (
	"context"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"backstop/dispatcher"
	"backstop/streams"
)

// Enqueue makes an event of a call, for the same endpoint, and returns when it
// is stored: from then on the promise holds for it as for any other. It goes
// to the endpoint's own lane, where also the events of a webhook that takes
// calls only may wait. Within the lane's de-duplication window the same id at
// the same endpoint is one event.
func (p *Pipeline) Enqueue(ctx context.Context, e streams.Event) error {
	e.Origin = streams.OriginCall + nuid.Next()
	e.PublishedAt = p.clock.now()
	return p.enqueue(ctx, e)
}

// enqueue is Enqueue for an event that has its origin and time.
func (p *Pipeline) enqueue(ctx context.Context, e streams.Event) error {
	if err := p.layIn(ctx, e.EndpointID, e.QueuedMsg()); err != nil {
		return fmt.Errorf("queue %s for %s: %w", e.ID, e.EndpointID, err)
	}
	return nil
}

// layIn stores an event's message in its endpoint's own lane, which has a
// runner from then on, and returns when the broker has it.
func (p *Pipeline) layIn(ctx context.Context, id streams.EndpointID, msg *nats.Msg) error {
	p.lanes.want(p.fleet.get(id))
	return p.parker.store(ctx, msg)
}

// FallbackUsed tells people that something else than the app answered a call,
// at most once a minute for each endpoint and reason, with a count. An answer
// without a source was none: the caller got an error.
func (p *Pipeline) FallbackUsed(c dispatcher.Call, app, answer dispatcher.Outcome) {
	if answer.Source == "" {
		return
	}
	if answer.Source == streams.SourcePending {
		p.notices.send(streams.NoticePendingCreated, c.Endpoint.EndpointID,
			fmt.Sprintf("a call to %s waits for a person; decide with: backstop pending approve %s, or reject", c.Endpoint.EndpointID, c.Event.ID),
			map[string]any{"id": c.Event.ID})
	}
	reason := string(answer.Reason.ForCaller())
	details := map[string]any{"reason": reason, "source": answer.Source, "requestId": c.Event.ID}
	if app.Err != nil {
		details["error"] = app.Err.Error()
	}
	var audit map[string]any
	if answer.Audit != nil {
		audit = maps.Clone(answer.Audit)
		audit["requestId"] = c.Event.ID
	}
	p.notices.addAudited(noticeKey{streams.NoticeFallbackUsed, c.Endpoint.EndpointID, reason},
		fmt.Sprintf("calls to %s were answered without the app (%s): %s", c.Endpoint.EndpointID, reason, answer.Source), details, audit)
}
