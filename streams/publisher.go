package streams

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// publishBudget bounds one Publish whose context has no deadline. When the
// leader of three servers is killed, publishing stalls for 4 to 8 s; a shorter
// budget would report failures that weren't.
const publishBudget = 15 * time.Second

// Publisher publishes events. It is safe for concurrent use.
type Publisher struct{ js jetstream.JetStream }

// NewPublisher returns a Publisher over a connection to Backstop's NATS.
func NewPublisher(js jetstream.JetStream) *Publisher { return &Publisher{js: js} }

// Receipt is the broker's word that it has stored an event: from here on the
// event is delivered, dead-lettered, pending, or discarded by a named operator.
type Receipt struct {
	// ID is what the app will see as X-Request-ID.
	ID string `json:"id"`
	// Stream and Sequence say where the event is stored.
	Stream   string `json:"stream"`
	Sequence uint64 `json:"sequence"`
	// Duplicate says that an event with this id had been stored before, within
	// EventDuplicates; nothing was added.
	Duplicate bool `json:"duplicate"`
}

// Publish stores an event for one app, or with an empty app for every app that
// declares the capability as async, and returns when the broker has
// acknowledged it. An empty id makes one. The error is one of ErrNoStream,
// ErrStreamFull, ErrTooLarge, ErrUnavailable, or says which name or id is
// wrong. Only after ErrUnavailable may the event have been stored; publish it
// again with the same id, which is Receipt.ID then too.
func (p *Publisher) Publish(ctx context.Context, to EndpointID, id string, payload []byte, opts ...MsgOption) (Receipt, error) {
	msg, err := EventMsg(to, id, payload, opts...)
	if err != nil {
		return Receipt{}, err
	}
	ctx, cancel := withBudget(ctx, publishBudget)
	defer cancel()
	ack, err := p.js.PublishMsg(ctx, msg)
	return receipt(msg, to, ack, err)
}

// receipt makes of the broker's answer to one event what its publisher gets.
func receipt(msg *nats.Msg, to EndpointID, ack *jetstream.PubAck, err error) (Receipt, error) {
	id := msg.Header.Get(HeaderMsgID)
	if err != nil {
		return Receipt{ID: id}, publishError(err, to)
	}
	return Receipt{ID: id, Stream: ack.Stream, Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
}

// EventMsg returns the message that Publish sends, for callers that publish in
// their own way. An empty id makes one.
func EventMsg(to EndpointID, id string, payload []byte, opts ...MsgOption) (*nats.Msg, error) {
	if err := CheckName("capability", to.Capability); err != nil {
		return nil, err
	}
	if to.App != "" {
		if err := CheckName("app", to.App); err != nil {
			return nil, err
		}
	}
	return newMsg(Events, to, id, payload, opts)
}
