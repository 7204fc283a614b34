package consumers

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// leftoverEvery is how often a lane that has nothing to hand out, and yet must
// stay, is searched for leftovers.
const leftoverEvery = 5 * time.Second

// leftover is an event that is in an endpoint's own lane and that its durable
// takes for settled. A server that was killed, or whose disk was full, may have
// written down that it was acknowledged, and not that it was removed. It would
// stay for as long as the endpoint is half open and no other event comes.
type leftover struct {
	looked   time.Time
	sequence uint64 // of the one that was seen then; 0 for none
}

// again removes the durable if there is a leftover, so that the next, which
// begins at the lane's beginning, hands it out again. That it was settled is
// likely, and then this is one of the repetitions that a killed server costs.
func (l *ownLane) again(ctx context.Context, cons jetstream.Consumer, info *jetstream.ConsumerInfo) error {
	if time.Since(l.leftover.looked) < leftoverEvery {
		return nil
	}
	before := l.leftover.sequence
	l.leftover = leftover{looked: time.Now()}
	stream, err := l.p.js.Stream(ctx, streams.LaneStream)
	if err != nil {
		return err
	}
	first, err := stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(l.e.id.Subject(streams.Lanes)))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil
	case err != nil:
		return err
	case first.Sequence > info.AckFloor.Stream:
		return nil // it came since
	}
	// Between an ack and the removal is a moment, so it has to be seen twice.
	if l.leftover.sequence = first.Sequence; first.Sequence != before {
		return nil
	}
	l.leftover.sequence = 0
	l.p.log.Warn("own lane: an event was acknowledged and is still there, as after the NATS server was killed; it is handed out again",
		"endpoint", l.e.id.String(), "sequence", first.Sequence)
	if removed, err := l.removeEmpty(ctx, cons); !removed || err != nil {
		return err
	}
	return errAgain
}

// errAgain says that the durable has to be made again.
var errAgain = errors.New("the lane begins again")
