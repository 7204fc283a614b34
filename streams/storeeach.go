package streams

import (
	"context"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// together is from how many messages on a batch pays.
const together = 20

// StoreEach stores up to MaxBatch messages of one stream, with one sync to disk
// where it can, and tells of each whether it is stored. It calls stored once
// for each message, by its index and with the broker's word or an error, from
// several goroutines at once, and returns when it has called all.
//
// What a batch can't hold is stored one by one: a batch is refused whole for
// one message that is too large, or there already. By itself that one is
// refused, or found to be a duplicate, and the others are stored. A batch
// without an answer is stored again in the same way, as long as ctx lasts;
// messages need an id for that to add nothing.
func StoreEach(ctx context.Context, js jetstream.JetStream, msgs []*nats.Msg, stored func(i int, ack *jetstream.PubAck, err error)) {
	if len(msgs) >= together {
		last, err := publishBatch(ctx, js.Conn(), msgs)
		if err == nil {
			for i := range slices.Backward(msgs) {
				ack := last
				stored(i, &ack, nil)
				last.Sequence-- // the messages of a batch have sequences in a row
			}
			return
		}
	}
	var all sync.WaitGroup
	for i, msg := range msgs {
		all.Go(func() {
			ack, err := js.PublishMsg(ctx, msg)
			stored(i, ack, err)
		})
	}
	all.Wait()
}
