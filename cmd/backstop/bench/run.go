package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// Target is a running Backstop, as a scenario sees it.
type Target struct {
	NC *nats.Conn
	JS jetstream.JetStream
	// Apply declares the app with one webhook for each capability, at
	// baseURL/<app>, and returns when that is stored.
	Apply func(ctx context.Context, app, baseURL string, async bool, capabilities ...string) error
}

// Receiver is the receiving process.
type Receiver struct {
	cmd    *exec.Cmd
	in     io.Closer
	url    string
	client http.Client
}

// StartReceiver runs the command, which must call Receive, and returns when it
// listens.
func StartReceiver(ctx context.Context, command string, args ...string) (*Receiver, error) {
	cmd := exec.CommandContext(ctx, command, args...) //nolint:gosec // our own binary
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the receiving process did not start: %w", err)
	}
	return &Receiver{cmd: cmd, in: in, url: "http://" + strings.TrimSpace(addr), client: http.Client{Timeout: 30 * time.Second}}, nil
}

// Close ends the process.
func (r *Receiver) Close() {
	_ = r.in.Close()
	_ = r.cmd.Wait()
}

// OK is the base URL of apps that answer.
func (r *Receiver) OK() string { return r.url + "/ok" }

// Hang is the base URL of apps that never do.
func (r *Receiver) Hang() string { return r.url + "/hang" }

// Slow is the base URL of apps whose answers take so long, in whole milliseconds.
func (r *Receiver) Slow(takes time.Duration) string {
	return fmt.Sprintf("%s/slow/%d", r.url, takes.Milliseconds())
}

// Tally asks what was received since the last reset.
func (r *Receiver) Tally(ctx context.Context, reset bool) (Tally, error) {
	url := r.url + "/tally"
	if reset {
		url += "?reset"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Tally{}, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return Tally{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	var t Tally
	return t, json.NewDecoder(resp.Body).Decode(&t)
}

// The load of a throughput run. What is outstanding keeps everything busy, and
// is few enough that no mailbox overflows; one publisher alone waits too long
// for its syncs.
const (
	outstanding   = 2400
	minPublishers = 8
)

// Throughput publishes to the endpoints as fast as they are delivered, for the given time after a second of warming up
// (or longer, if the load says so).
func Throughput(ctx context.Context, t Target, r *Receiver, to []streams.EndpointID, load Load, d time.Duration) (Rate, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := r.Tally(ctx, true); err != nil {
		return Rate{}, err
	}
	var delivered atomic.Int64
	publishers := make([]streams.EndpointID, 0, minPublishers+len(to))
	for len(publishers) < minPublishers {
		publishers = append(publishers, to...)
	}
	failed := make(chan error, len(publishers))
	for _, id := range publishers {
		go func() { failed <- publishSteadily(ctx, t, id, load, &delivered, len(publishers)) }()
	}
	count := func() (int, error) {
		tally, err := r.Tally(ctx, false)
		delivered.Store(int64(tally.Count))
		return tally.Count, err
	}
	begin, end := time.Now().Add(max(time.Second, load.Warm)), time.Time{}
	var m meter
	var base int
	for {
		n, err := count()
		if err != nil {
			return Rate{}, err
		}
		switch now := time.Now(); {
		case end.IsZero() && now.After(begin):
			m, base, end = startMeter(), n, now.Add(d)
		case !end.IsZero() && now.After(end):
			rate := m.rate(n - base)
			cancel()
			for range publishers {
				if err := <-failed; err != nil && ctx.Err() == nil {
					return Rate{}, err
				}
			}
			return rate, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case err := <-failed:
			return Rate{}, err
		}
	}
}

// Load is how events are published in a run, and which.
type Load struct {
	// Size is how many bytes an event has; 0 is 1 KB.
	Size int
	// Warm is how long a throughput run warms up; less than a second is one.
	Warm time.Duration
	// Batch is how many events share a sync; 0 publishes one by one, without
	// waiting for one's acknowledgement before the next.
	Batch int
}

// publishSteadily publishes to one endpoint while fewer than its share of
// outstanding events are, going by what was delivered to all.
func publishSteadily(ctx context.Context, t Target, to streams.EndpointID, load Load, delivered *atomic.Int64, publishers int) error {
	var sent int64
	for ctx.Err() == nil {
		if sent-delivered.Load()/int64(publishers) > int64(outstanding/publishers) {
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
			continue
		}
		n, err := publishSome(ctx, t, to, load)
		if err != nil && ctx.Err() == nil {
			return err
		}
		sent += int64(n)
	}
	return nil
}

// publishSome publishes a batch, or a few events one by one.
func publishSome(ctx context.Context, t Target, to streams.EndpointID, load Load) (int, error) {
	const few = 32
	n := load.Batch
	if n == 0 {
		n = few
	}
	msgs := make([]*nats.Msg, n)
	for i := range msgs {
		msg, err := streams.EventMsg(to, "", PayloadOf(time.Now(), load.Size))
		if err != nil {
			return 0, err
		}
		msgs[i] = msg
	}
	if load.Batch > 0 {
		return n, streams.PublishBatch(ctx, t.NC, msgs)
	}
	acks := make([]jetstream.PubAckFuture, n)
	for i, msg := range msgs {
		ack, err := t.JS.PublishMsgAsync(msg)
		if err != nil {
			return 0, err
		}
		acks[i] = ack
	}
	for _, ack := range acks {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case err := <-ack.Err():
			return 0, err
		case <-ack.Ok():
		}
	}
	return n, nil
}

// Latency publishes one event at a time at a steady rate, to the endpoints in
// turn; the receiver has the latencies.
func Latency(ctx context.Context, t Target, r *Receiver, to []streams.EndpointID, load Load, perSecond int, d time.Duration) (Tally, error) {
	if _, err := r.Tally(ctx, true); err != nil {
		return Tally{}, err
	}
	if err := publishPaced(ctx, t, to, load, perSecond, d); err != nil {
		return Tally{}, err
	}
	// What was published last needs a moment to arrive.
	var last Tally
	for {
		tally, err := r.Tally(ctx, false)
		if err != nil || tally.Count == last.Count && tally.Count > 0 {
			return tally, err
		}
		last = tally
		select {
		case <-ctx.Done():
			return Tally{}, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// Publish publishes one event at a time at a steady rate, to the endpoints in
// turn, until ctx ends.
func Publish(ctx context.Context, t Target, to []streams.EndpointID, perSecond int) {
	const forEver = 24 * time.Hour
	_ = publishPaced(ctx, t, to, Load{}, perSecond, forEver) // what is beside is not measured
}

func publishPaced(ctx context.Context, t Target, to []streams.EndpointID, load Load, perSecond int, d time.Duration) error {
	publisher := streams.NewPublisher(t.JS)
	var i atomic.Int64
	var failed atomic.Pointer[error]
	Paced(ctx, perSecond, d, func(ctx context.Context) {
		id := to[int(i.Add(1))%len(to)]
		if _, err := publisher.Publish(ctx, id, "", PayloadOf(time.Now(), load.Size)); err != nil {
			failed.Store(&err)
		}
	})
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}
