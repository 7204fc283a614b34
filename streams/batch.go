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

// PublishRun stores messages of one stream one after the other and waits for
// the last only: what came before it on the same connection is stored then,
// too. It is for what may be lost, as the delivery log: after an error any of
// them may be missing. Of an atomic batch the broker makes a small store on
// disk and removes it again, which at ten a second cost a fifth of its time.
func PublishRun(ctx context.Context, nc *nats.Conn, msgs []*nats.Msg) error {
	if len(msgs) == 0 {
		return nil
	}
	reconnects := nc.Stats().Reconnects
	for _, msg := range msgs[:len(msgs)-1] {
		if err := nc.PublishMsg(msg); err != nil {
			return fmt.Errorf("publish a run: %w", err)
		}
	}
	if _, err := requestAck(ctx, nc, msgs[len(msgs)-1]); err != nil {
		return fmt.Errorf("publish a run: %w", err)
	}
	if nc.Stats().Reconnects != reconnects {
		return errors.New("publish a run: the connection was lost in the middle")
	}
	return nil
}

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
// events and LANES do.
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
	ack, err := requestAck(ctx, nc, last)
	switch {
	case err != nil:
		return jetstream.PubAck{}, fmt.Errorf("publish a batch: %w", err)
	case ack.Count != len(msgs):
		return jetstream.PubAck{}, errors.New("publish a batch: the broker stored another number of messages than were sent")
	}
	return ack.PubAck, nil
}

// pubAck is the broker's word that it has stored a message; of the last of an
// atomic batch it also says how many those are.
type pubAck struct {
	jetstream.PubAck

	Error *jetstream.APIError `json:"error"`
	Count int                 `json:"count"`
}

// requestAck sends a message and waits for the broker's word.
func requestAck(ctx context.Context, nc *nats.Conn, msg *nats.Msg) (pubAck, error) {
	reply, err := nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return pubAck{}, err
	}
	var ack pubAck
	switch err := json.Unmarshal(reply.Data, &ack); {
	case err != nil:
		return pubAck{}, fmt.Errorf("the broker's answer can't be read: %w", err)
	case ack.Error != nil:
		return pubAck{}, storeError(ack.Error)
	}
	return ack, nil
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
