package consumers

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
)

// contested is a bucket in which somebody else takes every lease at once.
type contested struct {
	jetstream.KeyValue
	refusal jetstream.ErrorCode
}

func (contested) Bucket() string { return streams.LeasesBucket }

func (c contested) Update(context.Context, string, []byte, uint64) (uint64, error) {
	api := &jetstream.APIError{Code: 400, ErrorCode: c.refusal}
	return 0, fmt.Errorf("%w: %w", api, jetstream.ErrKeyRevisionMismatch) // as nats.go words it
}

func (contested) Delete(context.Context, string, ...jetstream.KVDeleteOpt) error { return nil }

// TestALostLeaseIsKnownAtOnce: three servers have a code of their own for it,
// which was taken for a bucket that is away: two replicas did one task for 6 s.
func TestALostLeaseIsKnownAtOnce(t *testing.T) {
	for servers, refusal := range map[string]jetstream.ErrorCode{"one server": 10071, "three servers": 10164} {
		t.Run(servers, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				holdLease(t.Context(), contested{refusal: refusal}, "task", "r1", 1, func(ctx context.Context) { <-ctx.Done() })
				if took := time.Since(began); took > leaseRenew {
					t.Errorf("it took %v, want %v: the first renewal", took, leaseRenew)
				}
			})
		})
	}
}

// TestALeaseIsTakenOver: the task of a replica that is gone without a word is
// another's within 15 s, and not before the first one can have noticed.
func TestALeaseIsTakenOver(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	js := srv.JetStream()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := streams.NewTopology(js, streams.Settings{StoreBytes: 1 << 30}).Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	leases, err := js.KeyValue(ctx, streams.LeasesBucket)
	if err != nil {
		t.Fatal(err)
	}
	lost := srv.Conn()
	theirs, err := jetstream.New(lost)
	if err != nil {
		t.Fatal(err)
	}
	held, err := theirs.KeyValue(ctx, streams.LeasesBucket)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	hold := func(kv jetstream.KeyValue, name string) (started, ended chan struct{}) {
		started, ended = make(chan struct{}), make(chan struct{})
		begin, end := sync.OnceFunc(func() { close(started) }), sync.OnceFunc(func() { close(ended) })
		running.Go(func() {
			withLease(ctx, kv, "task", name, func(ctx context.Context) {
				begin()
				<-ctx.Done()
				end()
			})
		})
		return started, ended
	}
	await := func(what string, c chan struct{}, most time.Duration) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(most):
			t.Fatalf("%s: not within %v", what, most)
		}
	}
	first, ended := hold(held, "r1")
	await("the first replica", first, 10*time.Second)
	second, _ := hold(leases, "r2")
	began := time.Now()
	lost.Close()                                  // as a SIGKILL does: no lease is given back
	await("the takeover", second, 20*time.Second) // 15, and what a busy machine adds
	t.Logf("taken over after %v", time.Since(began))
	await("the first replica's end", ended, time.Second) // it has noticed before
}

// TestNoRoomForALease: what makes room is done without a lease when there is no
// room to write one down.
func TestNoRoomForALease(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	js := natstest.Start(t, natstest.StoreMax(1<<20)).JetStream()
	leases, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: streams.LeasesBucket, TTL: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "FULL", Subjects: []string{"full"}}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = js.Publish(ctx, "full", make([]byte, 64<<10))
	}
	if !streams.LacksRoom(err) {
		t.Fatalf("the store is full: %v", err)
	}
	made := make(chan bool, 1)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() {
		withLeaseOr(ctx, leases, "trimmer", "r1", func(context.Context) { t.Error("it has the lease") }, func(context.Context) {
			select {
			case made <- true:
			default:
			}
		})
	})
	select {
	case <-made:
	case <-ctx.Done():
		t.Error("nobody makes room")
	}
	cancel()
}
