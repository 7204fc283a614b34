package consumers

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// maxDeliverAdvisory is what is read of the broker's word that it gave up on a
// message (io.nats.jetstream.advisory.v1.max_deliver).
type maxDeliverAdvisory struct {
	Stream     string `json:"stream"`
	Consumer   string `json:"consumer"`
	StreamSeq  uint64 `json:"stream_seq"`
	Deliveries int    `json:"deliveries"`
}

// followAdvisories dead-letters, as crash_loop, what the broker gave up on:
// such a message stays in its stream and is never handed out again. The
// advisories are captured in a stream, so that those sent while nobody ran
// count as well. It ends with ctx.
func (p *Pipeline) followAdvisories(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.readAdvisories(ctx)
		if err != nil && ctx.Err() == nil {
			p.log.Warn("can't read advisories, trying again", "error", err)
			sleep(ctx, pullRetry)
		}
	}
}

func (p *Pipeline) readAdvisories(ctx context.Context) error {
	cons, err := p.js.Consumer(ctx, streams.AdvisoryStream, streams.AdvisoryConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		// Somebody deleted it. Without it nothing is trimmed, either.
		return p.cfg.Topology.Ensure(ctx)
	}
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		var failed error
		_, err := pullOnce(ctx, cons, 64, pullExpiry, func(msg jetstream.Msg) {
			if err := p.stranded(ctx, msg.Data()); err != nil {
				failed = err
				_ = msg.NakWithDelay(5 * time.Second)
				return
			}
			_ = msg.DoubleAck(ctx)
		})
		if err := errors.Join(err, failed); err != nil {
			return err
		}
	}
	return nil
}

// stranded dead-letters the message that an advisory is about, and removes it
// from where it is stuck. An advisory about somebody else's consumer is no
// concern of ours.
func (p *Pipeline) stranded(ctx context.Context, advisory []byte) error {
	var a maxDeliverAdvisory
	if err := json.Unmarshal(advisory, &a); err != nil {
		p.log.Warn("an advisory that can't be read was dropped", "error", err)
		return nil
	}
	shared := a.Consumer == streams.EventConsumer && strings.HasPrefix(a.Stream, streams.EventStreamPrefix)
	if !shared && a.Stream != streams.LaneStream {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	stream, err := p.js.Stream(ctx, a.Stream)
	if err != nil {
		return err
	}
	raw, err := stream.GetMsg(ctx, a.StreamSeq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // settled in the meantime
	}
	if err != nil {
		return err
	}
	letter := streams.DeadLetter{
		Reason: streams.CrashLoop, FailedAt: time.Now(),
		Err: "handed out as often as the broker allows without being settled",
	}
	var stray error
	if letter.Event, stray = streams.DecodeRaw(raw); stray != nil {
		letter.Reason, letter.Err = streams.NoRoute, stray.Error()
	}
	if err := p.letters.Store(ctx, letter); err != nil {
		return err
	}
	p.observe.DeadLetter(p.fleet.named(letter.EndpointID), letter.Reason)
	if err := stream.DeleteMsg(ctx, a.StreamSeq); err != nil {
		if _, gone := stream.GetMsg(ctx, a.StreamSeq); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return nil
		}
		return err
	}
	return nil
}

// mendEvery is how often it is looked whether every stream and bucket is there.
const mendEvery = 10 * time.Second

// keepTopology makes anew, empty, the streams and buckets that somebody has
// deleted: without LANES or DLQ events would stand still until the next start.
// It ends with ctx.
func (p *Pipeline) keepTopology(ctx context.Context) {
	for ctx.Err() == nil {
		sleep(ctx, mendEvery)
		missing, err := p.cfg.Topology.Missing(ctx)
		if err == nil && len(missing) > 0 {
			p.log.Error("streams were deleted, and are made anew", "streams", missing)
			err = p.cfg.Topology.Ensure(ctx)
		}
		if err != nil && ctx.Err() == nil {
			p.log.Warn("can't look after the streams, trying again", "error", err)
		}
	}
}
