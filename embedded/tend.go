package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Room on the disk, below which publishes are refused before a write can fail,
// and from which they are taken again. What lies below is for what has to be
// written nevertheless: acks, indexes, the removal of what is settled.
const (
	lowRoom    = 32 << 20
	enoughRoom = 48 << 20
)

// Times of tend.
const (
	// lookEvery is how often it looks. A look costs microseconds.
	lookEvery = time.Second
	// restartGap is the shortest time from one restart to the next; it doubles
	// each time, up to restartGapMax, until none was needed for restartCalm.
	restartGap    = 5 * time.Second
	restartGapMax = 5 * time.Minute
	restartCalm   = 10 * time.Minute
	// remindEvery is how often the log repeats what the trouble is.
	remindEvery = time.Minute
)

// tend looks after the server until ctx ends, so that a full disk needs nobody
// but somebody who makes room.
//
// nats-server (2.15.2) remembers a failed write: the stream that met it takes
// nothing more until the server is restarted, its publishers get no answer, and
// JetStream calls itself enabled. So there are two steps. While the disk is
// nearly full, publishes are refused with an error that says so, in time for
// most writes not to fail at all; what is stored is delivered and acknowledged
// as before. And when a write has failed, the server is restarted in this
// process as soon as there is room: clients see a short disconnection.
//
// Nothing acknowledged is lost on the way, since what failed was not
// acknowledged, and what was had been written.
func (s *Server) tend(ctx context.Context) {
	defer close(s.tending)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	k := keeper{Server: s}
	for {
		k.look(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// keeper is what tend remembers from one look to the next.
type keeper struct {
	*Server
	braked  bool // publishes are refused
	restart pace
	failure error     // why the last restart failed, if it did
	told    time.Time // when the log last told of the trouble
}

// look finds out how the server is and does what has to be done.
func (k *keeper) look(ctx context.Context, now time.Time) {
	free, err := freeBytes(k.dir)
	if err != nil {
		k.say(now, fmt.Errorf("can't tell how much space %s has: %w", k.dir, err))
		return
	}
	failed := k.failedWrite()
	room := free >= lowRoom && (!k.braked || free >= enoughRoom)
	if failed != "" { // what can be written is known only by writing: there are quotas
		room = free >= enoughRoom && k.probeWrite() == nil
	}
	k.brake(!room)
	switch {
	case !room:
		k.say(now, noRoom(k.dir, free, failed))
	case failed == "":
		k.allClear()
	case k.restart.due(now):
		k.restartNow(ctx, now, failed)
	case k.failure != nil:
		k.say(now, k.failure)
	default:
		k.say(now, fmt.Errorf("JetStream can't take writes: %s: the server is restarted again in %v: %w",
			failed, k.restart.next.Sub(now).Round(time.Second), ErrMendsItself))
	}
}

func noRoom(dir string, free int64, failed string) error {
	full := fmt.Sprintf("the disk of %s is full (%d MiB free)", dir, free>>20)
	if failed != "" {
		full += ", and a write failed: " + failed
	}
	return fmt.Errorf("%s: publishes are refused, nothing that was acknowledged is lost: free some space; with %d MiB free %w",
		full, int64(enoughRoom)>>20, ErrMendsItself)
}

// say keeps the trouble for Health, and logs it once a minute.
func (k *keeper) say(now time.Time, trouble error) {
	k.trouble.Store(&trouble)
	if k.told.IsZero() || now.Sub(k.told) >= remindEvery {
		k.log.Error("the store is in trouble", "error", trouble)
		k.told = now
	}
}

func (k *keeper) allClear() {
	if k.trouble.Swap(nil) != nil {
		k.log.Info("the store takes events again", "data", k.dir)
	}
	k.told = time.Time{}
}

// failedWrite returns what nats-server says of a write that failed, or why
// there is no server; empty when all is well.
func (k *keeper) failedWrite() string {
	ns := k.running.Load()
	if !ns.Running() {
		return "the embedded NATS server is not running"
	}
	if what := ns.said.failedWrite.Load(); what != nil {
		return *what
	}
	for _, e := range ns.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if strings.Contains(e.Error, writeErrorMark) {
			return e.Error
		}
	}
	if !ns.JetStreamEnabled() {
		return "JetStream has turned itself off"
	}
	return ""
}

// brake has publishes refused, or taken again. nats-server answers them at once
// with error 10002, "resource limits exceeded for account".
func (k *keeper) brake(on bool) {
	if on == k.braked {
		return
	}
	var limits map[string]server.JetStreamAccountLimits // none
	if on {
		none := server.JetStreamAccountLimits{
			MaxMemory: -1, MaxStore: 0, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1,
			MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
		}
		limits = map[string]server.JetStreamAccountLimits{"": none}
	}
	if err := k.running.Load().GlobalAccount().UpdateJetStreamLimits(limits); err != nil {
		k.log.Log(context.Background(), slog.LevelDebug, "publishes can't be refused or allowed", "refuse", on, "error", err)
		return
	}
	k.braked = on
}

// restartNow stops the nats-server and starts another one on the same store and
// port. What is in memory alone, such as acks that could not be written, is
// written now that there is room.
func (k *keeper) restartNow(ctx context.Context, now time.Time, why string) {
	k.restart.took(now)
	trouble := fmt.Errorf("the embedded NATS server is being restarted, as there is room again: %w", ErrMendsItself)
	k.trouble.Store(&trouble)
	k.log.Warn("restarting the embedded NATS server within this process, as there is room again", "was", why)
	old := k.running.Load()
	old.Shutdown()
	old.WaitForShutdown()
	if err := k.launch(ctx); err != nil {
		k.failure = fmt.Errorf("the embedded NATS server can't be started again: %w", err)
		if ctx.Err() == nil {
			k.say(now, k.failure)
		}
		return
	}
	k.braked, k.failure = false, nil
	k.log.Warn("the embedded NATS server is back", "took", time.Since(now).Round(time.Millisecond))
}

// pace keeps restarts apart.
type pace struct {
	next time.Time
	gap  time.Duration
}

func (p *pace) due(now time.Time) bool { return !now.Before(p.next) }

// took notes a restart.
func (p *pace) took(now time.Time) {
	if p.gap == 0 || now.Sub(p.next) >= restartCalm {
		p.gap = restartGap
	} else {
		p.gap = min(2*p.gap, restartGapMax)
	}
	p.next = now.Add(p.gap)
}
