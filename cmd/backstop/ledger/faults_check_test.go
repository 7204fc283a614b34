//go:build e2e

package ledger

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// settleWithin is how long it may take until nothing is pending: maxAge of 6 s,
// and what comes after it.
const settleWithin = 60 * time.Second

// muchLater tells that an app asked to be left alone for longer than a run: its
// events stay pending.
func muchLater(id streams.EndpointID) bool { return strings.HasPrefix(id.App, "muchlate") }

// await waits until nothing is pending but what has to be, and returns that.
func (w *world) await(js jetstream.JetStream) map[target]int {
	ctx, cancel := context.WithTimeout(w.ctx, settleWithin)
	defer cancel()
	var last string
	for ctx.Err() == nil {
		rest, err := w.pendingNow(ctx, js)
		if err == nil {
			return rest
		}
		if ctx.Err() == nil {
			last = err.Error()
		}
		pause(ctx, 100*time.Millisecond)
	}
	w.problem("not settled after %v: %s", settleWithin, last)
	w.tellLanes(js)
	rest, _ := w.inLanes(w.ctx, js)
	return rest
}

var errPending = errors.New("pending")

func (w *world) pendingNow(ctx context.Context, js jetstream.JetStream) (map[target]int, error) {
	for _, name := range []string{capability, reports} {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		cons, err := js.Consumer(try, streams.EventStream(name), streams.EventConsumer)
		cancel()
		if err != nil {
			return nil, err
		}
		if i := cons.CachedInfo(); i.NumPending > 0 || i.NumAckPending > 0 {
			return nil, fmt.Errorf("%w: %d and %d of %s", errPending, i.NumPending, i.NumAckPending, name)
		}
	}
	rest, err := w.inLanes(ctx, js)
	if err != nil {
		return nil, err
	}
	for t := range rest {
		if !muchLater(t.EndpointID) {
			return nil, fmt.Errorf("%w: %d in LANES, as %s of %s", errPending, len(rest), t.id, t.EndpointID)
		}
	}
	return rest, nil
}

// tellLanes writes down in what state the lanes are that didn't settle.
func (w *world) tellLanes(js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	var text strings.Builder
	stream, err := js.Stream(ctx, streams.LaneStream)
	if err == nil {
		for info := range stream.ListConsumers(ctx).Info() {
			fmt.Fprintf(&text, "%s: made %s, pending %d, ack pending %d, redelivered %d, waiting %d, delivered %+v, floor %+v, paused %t for %v\n", info.Name, clock(info.Created),
				info.NumPending, info.NumAckPending, info.NumRedelivered, info.NumWaiting, info.Delivered, info.AckFloor, info.Paused, info.PauseRemaining)
		}
	}
	breakers, err2 := w.output("breakers", "list", "--json")
	fmt.Fprintf(&text, "breakers: %s\n%v %v\n", breakers, err, err2)
	w.must(os.WriteFile(filepath.Join(w.dir, "lanes.log"), []byte(text.String()), 0o600))
}

// inLanes reads what waits in LANES. An event that is tried again goes to the
// end of the stream: one that passes the reader, and is in no place that it
// looked at, once made five events look lost (seed 1795611939). So what was
// stored while it was read is pending.
func (w *world) inLanes(ctx context.Context, js jetstream.JetStream) (map[target]int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	before, err := js.Stream(ctx, streams.LaneStream)
	if err != nil {
		return nil, err
	}
	all := map[target]int{}
	err = each(ctx, js, streams.LaneStream, func(msg *jetstream.RawStreamMsg) error {
		e, err := streams.DecodeRaw(msg)
		all[target{e.ID, e.EndpointID}]++
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := js.Stream(ctx, streams.LaneStream)
	if err != nil {
		return nil, err
	}
	if last := before.CachedInfo().State.LastSeq; after.CachedInfo().State.LastSeq != last {
		return nil, fmt.Errorf("%w: events moved in LANES behind %d", errPending, last)
	}
	return all, nil
}

// each reads a stream from its beginning to its end.
func each(ctx context.Context, js jetstream.JetStream, name string, visit func(*jetstream.RawStreamMsg) error) error {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return err
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return nil
	}
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		msg, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(msg); err != nil {
			return err
		}
		seq = msg.Sequence
	}
	return nil
}

// audit waits until the run has settled and checks everything that is promised.
func (w *world) audit() *books {
	nc, js := w.connect()
	defer nc.Close()
	w.awaitDecisions(js)
	rest := w.await(js)
	for _, r := range w.replicas {
		r.mu.Lock()
		if r.died.After(r.up) {
			w.faults.add(fault{r.name + " is away", r.died, time.Now(), w.embeds()})
		}
		r.mu.Unlock()
	}
	record := readRecord(w.T, w.record)
	b := &books{
		published: w.published, requests: requests(record), pending: rest, discarded: map[target]bool{},
		faults: w.faults.all(), clocks: w.clocks, maxAttempts: attempts,
		firstWait: time.Duration(float64(firstWait) * jitterOff), mostWait: time.Duration(float64(mostWait) * jitterOff),
	}
	if err := w.read(js, b); err != nil {
		b.problem("the books can't be read, so they say nothing: %v", err)
		return b
	}
	for t, p := range b.published {
		if t.App == replayedApp || t.App == discardedApp {
			p.decided = true
			b.published[t] = p
		}
	}
	b.audit()
	w.checkCertificates(b)
	w.checkExpired(b)
	if w.names != nil {
		w.names.check(b)
	}
	w.results(js, record)
	w.deliveryLog(js, b)
	w.leaks(js)
	w.mu.Lock()
	defer w.mu.Unlock()
	b.problems = append(b.problems, w.problems...)
	return b
}

// read fills the books from the streams, however often that takes: one that
// could not be read looked like hundreds of lost events (seed 7006).
func (w *world) read(js jetstream.JetStream, b *books) (err error) {
	for ; w.ctx.Err() == nil; pause(w.ctx, time.Second) {
		if b.letters, err = w.letters(js); err == nil {
			err = w.readNotices(js, b)
		}
		if err == nil {
			return nil
		}
	}
	return errors.Join(err, w.ctx.Err())
}

func (w *world) letters(js jetstream.JetStream) (map[target][]streams.DeadLetter, error) {
	all := map[target][]streams.DeadLetter{}
	for d, err := range streams.NewDeadLetters(js).Select(w.ctx, streams.Filter{}) {
		if err != nil {
			return all, err
		}
		t := target{d.ID, d.EndpointID}
		all[t] = append(all[t], d)
	}
	return all, nil
}

// readNotices finds what operators discarded.
func (w *world) readNotices(js jetstream.JetStream, b *books) error {
	return each(w.ctx, js, streams.NoticeStream, func(msg *jetstream.RawStreamMsg) error {
		var n streams.Notice
		if err := json.Unmarshal(msg.Data, &n); err != nil || n.Kind != streams.NoticeDiscarded {
			return err
		}
		id, _ := n.Details["id"].(string)
		b.discarded[target{id, endpoint(n.Capability, n.App)}] = true
		return nil
	})
}

// awaitDecisions waits until what was approved has its result: it is an event
// by then, and would otherwise be in no place yet.
func (w *world) awaitDecisions(js jetstream.JetStream) {
	undecided := func() int {
		told := map[string]bool{}
		err := each(w.ctx, js, streams.ResultStream, func(msg *jetstream.RawStreamMsg) error {
			r, err := streams.DecodeResult(msg.Subject, msg.Header, msg.Data)
			told[r.ID] = told[r.ID] || r.Kind == streams.ResultApproved
			return err
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		missing := 0
		for id, decided := range w.decided {
			if err != nil || decided != "" && !told[id] {
				missing++
			}
		}
		return missing
	}
	for began := time.Now(); w.ctx.Err() == nil && time.Since(began) < settleWithin && undecided() > 0; {
		pause(w.ctx, 200*time.Millisecond)
	}
}

// results checks that every accepted callback and every decision has exactly
// one result.
func (w *world) results(js jetstream.JetStream, record []entry) {
	type result struct {
		target
		kind streams.ResultKind
	}
	read := func() (map[result]int, error) {
		got := map[result]int{}
		return got, each(w.ctx, js, streams.ResultStream, func(msg *jetstream.RawStreamMsg) error {
			r, err := streams.DecodeResult(msg.Subject, msg.Header, msg.Data)
			got[result{target{r.ID, r.EndpointID}, r.Kind}]++
			return err
		})
	}
	want := map[result]bool{}
	for _, e := range record {
		if e.Callback {
			want[result{target{e.ID, endpoint(e.Capability, e.App)}, streams.ResultCallback}] = true
		}
	}
	for t := range w.published {
		if w.decided[t.id] != "" {
			want[result{t, streams.ResultApproved}] = true
		}
	}
	var got map[result]int
	var err error
	for began := time.Now(); w.ctx.Err() == nil && time.Since(began) < 20*time.Second; pause(w.ctx, 200*time.Millisecond) {
		missing := 0
		got, err = read()
		for r := range want {
			if got[r] == 0 {
				missing++
			}
		}
		if err == nil && missing == 0 {
			break
		}
	}
	if err != nil {
		w.problem("the results can't be read: %v", err)
	}
	for r := range want {
		if got[r] != 1 {
			w.problem("%s of %s at %s has %d results, want 1", r.kind, r.id, r.EndpointID, got[r])
		}
	}
	for r, n := range got {
		if !want[r] {
			// The app did not learn that its callback was accepted, as when a
			// kill fell in between.
			if n > 1 {
				w.problem("%s of %s at %s has %d results", r.kind, r.id, r.EndpointID, n)
			}
		}
	}
}

// deliveryLog checks that nothing counts as delivered without the receivers'
// own record of it.
func (w *world) deliveryLog(js jetstream.JetStream, b *books) {
	type try struct {
		target
		attempt string
	}
	received := map[try]bool{}
	for t, requests := range b.requests {
		for _, e := range requests {
			if e.Status/100 == 2 {
				received[try{t, e.Attempt}] = true
			}
		}
	}
	logged := 0
	err := each(w.ctx, js, streams.AttemptStream, func(msg *jetstream.RawStreamMsg) error {
		var a streams.Attempt
		if err := json.Unmarshal(msg.Data, &a); err != nil {
			return err
		}
		if logged++; a.Verdict == "delivered" && !received[try{target{a.ID, endpoint(a.Capability, a.App)}, fmt.Sprint(a.Attempt)}] {
			b.problem("attempt %d of event %s at %s is logged as delivered, and its receiver knows nothing of it", a.Attempt, a.ID, endpoint(a.Capability, a.App))
		}
		return nil
	})
	if err != nil || logged == 0 {
		w.problem("the delivery log has %d entries (%v)", logged, err)
	}
}

// What a replica may hold more at the end than when it became ready. Streams
// that were made since have files open. Each lane of an endpoint that waits to
// be probed has a runner, a pull and a subscription, and its durable's own
// goroutines where the server is in the same process: eight.
const (
	moreDescriptors   = 30
	moreGoroutines    = 60
	goroutinesOfALane = 10
	moreMemory        = 200 << 20
)

// leaks stops the receivers, so that no connection is left to them, and checks
// what replicas still hold.
func (w *world) leaks(js jetstream.JetStream) {
	_ = w.stopReceiver()
	for _, r := range w.replicas {
		r.mu.Lock()
		base, up := r.base, r.up
		r.mu.Unlock()
		var now usage
		var lanes, most int
		var err error
		for began := time.Now(); w.ctx.Err() == nil && time.Since(began) < 15*time.Second; pause(w.ctx, 200*time.Millisecond) {
			now, err = r.use()
			if lanes, err = w.lanes(js, err); err != nil {
				continue
			}
			most = base.goroutines + moreGoroutines + goroutinesOfALane*lanes
			if now.descriptors <= base.descriptors+moreDescriptors && now.goroutines <= most {
				break
			}
		}
		switch {
		case err != nil:
			w.problem("%s can't be asked what it holds: %v", r.name, err)
		case now.descriptors > base.descriptors+moreDescriptors || now.goroutines > most || now.memory > base.memory+moreMemory:
			w.problem("%s held %+v when it became ready, and holds %+v %v later, with nothing to do but to wait for %d lanes", r.name, base, now, time.Since(up).Round(time.Second), lanes)
		}
	}
}

// lanes counts the lanes that have a durable, unless there was an error before.
func (w *world) lanes(js jetstream.JetStream, before error) (int, error) {
	if before != nil {
		return 0, before
	}
	ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, streams.LaneStream)
	if err != nil {
		return 0, err
	}
	return stream.CachedInfo().State.Consumers, nil
}

// visited reads which kill points the run came past, and which killed.
func (w *world) visited() (visited, killedAt map[string]int) {
	visited, killedAt = map[string]int{}, map[string]int{}
	f, err := os.Open(filepath.Join(w.dir, "points"))
	if err != nil {
		return visited, killedAt
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		what, point, _ := strings.Cut(lines.Text(), " ")
		if what == "killed" {
			killedAt[point]++
		} else {
			visited[point]++
		}
	}
	return visited, killedAt
}
