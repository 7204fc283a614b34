package consumers

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// forwardLook is how often it is looked whether an app takes notices.
const forwardLook = time.Second

// forwarder publishes notices as events of the capability platformNotice, while
// an app declares it: a receiver such as a chat's then gets them through the
// pipeline itself, signed and with retries. One replica does it.
//
// Notices about endpoints of that very capability are left out, or each failure
// to deliver one would make the next.
type forwarder struct{ p *Pipeline }

// run forwards until ctx ends.
func (f *forwarder) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.forward(ctx)
		if err == nil {
			err = f.retire(ctx)
		}
		if err != nil && ctx.Err() == nil {
			f.p.log.Warn("can't forward notices, trying again", "error", err)
			sleep(ctx, time.Second)
			continue
		}
		for ctx.Err() == nil && !f.wanted() {
			sleep(ctx, forwardLook)
		}
	}
}

// wanted tells whether an app takes notices.
func (f *forwarder) wanted() bool { return len(f.p.fleet.takers(streams.PlatformNotice)) > 0 }

// retire forgets where forwarding was: an app that declares the capability
// later is told what happens from then on.
func (f *forwarder) retire(ctx context.Context) error {
	if f.wanted() {
		return nil
	}
	err := f.p.js.DeleteConsumer(ctx, streams.NoticeStream, streams.NoticeConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		err = nil
	}
	return err
}

// forward hands on what comes until nobody takes notices any more. A notice is
// acknowledged once its event is stored.
func (f *forwarder) forward(ctx context.Context) error {
	if !f.wanted() {
		return nil
	}
	cons, err := f.p.js.CreateOrUpdateConsumer(ctx, streams.NoticeStream, jetstream.ConsumerConfig{
		Durable:       streams.NoticeConsumer,
		Description:   "Hands notices on to apps that declare " + streams.PlatformNotice,
		DeliverPolicy: jetstream.DeliverNewPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       30 * time.Second,
	})
	if err != nil {
		return err
	}
	for ctx.Err() == nil && f.wanted() {
		var failed error
		_, err := pullOnce(ctx, cons, 64, forwardLook, func(msg jetstream.Msg) {
			if failed == nil {
				failed = f.handOn(ctx, msg)
			}
			if failed != nil {
				_ = msg.NakWithDelay(time.Second)
				return
			}
			if err := msg.DoubleAck(ctx); err != nil {
				_ = msg.Ack() // a shutdown: the next replica need not wait for the ack wait
			}
		})
		if err := errors.Join(err, failed); err != nil {
			return err
		}
	}
	return nil
}

// handOn publishes the notice as an event, for all apps that take it. Its id is
// that of its place in NOTICES, so that doing it again adds nothing.
func (f *forwarder) handOn(ctx context.Context, msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return err
	}
	n, err := streams.DecodeNotice(msg)
	if err != nil || n.Capability == streams.PlatformNotice {
		return nil // what isn't a notice is nobody's to deliver
	}
	event := nats.NewMsg(streams.EndpointID{Capability: streams.PlatformNotice}.Subject(streams.Events))
	event.Data = msg.Data()
	event.Header.Set(streams.HeaderMsgID,
		"notice-"+strconv.FormatUint(meta.Sequence.Stream, 10)+"-"+strconv.FormatInt(meta.Timestamp.UnixNano(), 36))
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	_, err = f.p.js.PublishMsg(ctx, event)
	return err
}
