package streams

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// MaxBatch is the most messages that JetStream stores as one atomic batch.
const MaxBatch = 1000

// Headers of JetStream's atomic batches (ADR-50), which nats.go has no call for.
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// PublishBatch stores up to MaxBatch messages in one stream, all of them or
// none, with a single sync to disk: with "sync always" it stores some 26,000
// events a second in batches of 100, where one by one it is 4,200. It pays
// above about twenty. The stream must allow atomic publishing, as those of
// events and attempts do.
//
// One message whose Nats-Msg-Id was stored before makes the broker refuse the
// whole batch; StoreEach goes on from there. The error is nil only when
// everything is stored.
func PublishBatch(ctx context.Context, nc *nats.Conn, msgs []*nats.Msg) error {
	_, err := publishBatch(ctx, nc, msgs)
	return err
}

// publishBatch is PublishBatch, and returns what the broker says of the last
// message. The messages have no headers of the batch afterwards.
func publishBatch(ctx context.Context, nc *nats.Conn, msgs []*nats.Msg) (jetstream.PubAck, error) {
	switch {
	case len(msgs) == 0:
		return jetstream.PubAck{}, nil
	case len(msgs) > MaxBatch:
		return jetstream.PubAck{}, fmt.Errorf("a batch of %d messages is too large: JetStream takes at most %d", len(msgs), MaxBatch)
	}
	number(msgs)
	defer unnumber(msgs)
	last := msgs[len(msgs)-1]
	for _, msg := range msgs[:len(msgs)-1] {
		if err := nc.PublishMsg(msg); err != nil {
			return jetstream.PubAck{}, fmt.Errorf("publish a batch: %w", err)
		}
	}
	reply, err := nc.RequestMsgWithContext(ctx, last)
	if err != nil {
		return jetstream.PubAck{}, fmt.Errorf("publish a batch: %w", err)
	}
	var ack struct {
		jetstream.PubAck

		Error *jetstream.APIError `json:"error"`
		Count int                 `json:"count"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return jetstream.PubAck{}, fmt.Errorf("publish a batch: the broker's answer can't be read: %w", err)
	}
	switch {
	case ack.Error != nil:
		return jetstream.PubAck{}, fmt.Errorf("publish a batch: %w", storeError(ack.Error))
	case ack.Count != len(msgs):
		return jetstream.PubAck{}, errors.New("publish a batch: the broker stored another number of messages than were sent")
	}
	return ack.PubAck, nil
}

// number makes one batch of the messages.
func number(msgs []*nats.Msg) {
	id := nuid.Next()
	for i, msg := range msgs {
		if msg.Header == nil {
			msg.Header = nats.Header{}
		}
		msg.Header.Set(headerBatchID, id)
		msg.Header.Set(headerBatchSequence, strconv.Itoa(i+1))
	}
	msgs[len(msgs)-1].Header.Set(headerBatchCommit, "1")
}

// unnumber makes single messages again of those of a batch.
func unnumber(msgs []*nats.Msg) {
	for _, msg := range msgs {
		msg.Header.Del(headerBatchID)
		msg.Header.Del(headerBatchSequence)
		msg.Header.Del(headerBatchCommit)
	}
}
