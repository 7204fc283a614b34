package consumers

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/bucket"
)

// leaseRenew is how often a lease is renewed or asked for; the bucket drops
// what was not renewed for 10 s, so that a dead holder's task is taken over
// within 15 s.
const leaseRenew = 3 * time.Second

// withLease runs task while this replica holds the named lease, over and over
// until ctx ends. The task's context ends when the lease is lost. At most one
// replica runs the task, but for a moment after a pause of the whole process;
// tasks must bear that.
func withLease(ctx context.Context, kv jetstream.KeyValue, name, replica string, task func(context.Context)) {
	withLeaseOr(ctx, kv, name, replica, task, func(context.Context) {})
}

// withLeaseOr also runs noRoom once in a while as long as NATS has no room to
// write down who holds the lease.
func withLeaseOr(ctx context.Context, kv jetstream.KeyValue, name, replica string, task, noRoom func(context.Context)) {
	for ctx.Err() == nil {
		revision, err := kv.Create(ctx, name, []byte(replica))
		if err != nil {
			if streams.LacksRoom(err) {
				noRoom(ctx)
			}
			sleep(ctx, leaseRenew)
			continue
		}
		holdLease(ctx, kv, name, replica, revision, task)
	}
}

// holdLease runs the task until ctx ends or the lease is lost, and gives the
// lease back so that another replica needs not wait for it to expire.
func holdLease(ctx context.Context, kv jetstream.KeyValue, name, replica string, revision uint64, task func(context.Context)) {
	held, lose := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		task(held)
	}()
	defer func() {
		lose()
		<-done
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = kv.Delete(release, name, jetstream.LastRevision(revision)) // it expires otherwise
	}()
	renewed := time.Now()
	for {
		sleep(ctx, leaseRenew)
		if ctx.Err() != nil {
			return
		}
		next, err := bucket.Write(ctx, kv, name, []byte(replica), revision)
		switch {
		case err == nil:
			revision, renewed = next, time.Now()
		case errors.Is(err, bucket.ErrConflict) || time.Since(renewed) > 2*leaseRenew:
			return // somebody else has it, or may soon
		}
	}
}
