package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/secrets"
)

// startTimeout is how long a command waits for a pipeline that is just
// starting. Its NATS takes connections before it has made its streams and
// buckets; that takes a fraction of a second, and more where a cluster elects a
// leader for each.
const startTimeout = 5 * time.Second

// startPoll is how often the command looks meanwhile.
const startPoll = 50 * time.Millisecond

// startingJetStream is a JetStream whose pipeline may be just starting: it waits
// for what `serve` makes at every start, where another would say at once that
// it isn't there. After the deadline it says so too. Only what is missing costs
// a wait, and a login that may not see everything is asked for nothing more.
type startingJetStream struct {
	jetstream.JetStream
	deadline time.Time
	// waiting is called once, when a wait begins.
	waiting func()
}

// KeyValue opens a bucket. The one of secrets is no use to anybody without the
// public key that is published in it.
func (s *startingJetStream) KeyValue(ctx context.Context, bucket string) (kv jetstream.KeyValue, err error) {
	interrupted := s.await(ctx, func() bool {
		if kv, err = s.JetStream.KeyValue(ctx, bucket); err != nil {
			return errors.Is(err, jetstream.ErrBucketNotFound)
		}
		if bucket != streams.SecretsBucket {
			return false
		}
		_, keyErr := kv.Get(ctx, secrets.PublicKeyName)
		return errors.Is(keyErr, jetstream.ErrKeyNotFound)
	})
	if interrupted != nil {
		return nil, interrupted
	}
	return kv, err
}

// Stream opens a stream. It doesn't wait for one of a capability, which is made
// when an app declares it.
func (s *startingJetStream) Stream(ctx context.Context, name string) (stream jetstream.Stream, err error) {
	interrupted := s.await(ctx, func() bool {
		stream, err = s.JetStream.Stream(ctx, name)
		return errors.Is(err, jetstream.ErrStreamNotFound) && !strings.HasPrefix(name, streams.EventStreamPrefix)
	})
	if interrupted != nil {
		return nil, interrupted
	}
	return stream, err
}

// await calls missing until it returns false or the deadline is over. Its error
// is that of a ctx that ended meanwhile.
func (s *startingJetStream) await(ctx context.Context, missing func() bool) error {
	for missing() && time.Now().Before(s.deadline) {
		if s.waiting != nil {
			s.waiting()
			s.waiting = nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startPoll):
		}
	}
	return nil
}
