package consumers

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/killpoint"
)

// trimEvery is how often the streams of events are trimmed.
const trimEvery = 3 * time.Second

// trimmer purges settled events from the capabilities' streams: what is behind
// the ack floor of the shared lane, and older than the de-duplication window
// (a restarted server rebuilds its de-duplication from what is stored). A
// stream that is more than half full is trimmed up to the ack floor at once:
// room for new events is worth more than de-duplication across a restart.
//
// Nothing above the ack floor is ever touched, and nothing above the floor of
// the round before: the floor also passes what the broker gave up on, of which
// an advisory tells a moment later. A round first asks whether there are
// advisories to be read, and then purges what was behind the floor before it
// asked. With a floor that was read after the question, an event that the broker
// gave up on in between was purged before it was a dead letter.
type trimmer struct {
	p *Pipeline
	// seen are, for each stream, positions of its end by the time they were
	// noted, oldest first.
	seen map[string][]position
	// floors are the ack floors of the round before, for each stream.
	floors map[string]uint64
}

type position struct {
	at   time.Time
	last uint64
}

func newTrimmer(p *Pipeline) *trimmer {
	return &trimmer{p: p, seen: make(map[string][]position), floors: make(map[string]uint64)}
}

// run trims until ctx ends.
func (t *trimmer) run(ctx context.Context) {
	for ctx.Err() == nil {
		t.round(ctx)
		sleep(ctx, trimEvery)
	}
}

// round trims every stream once. Two replicas that do it at once do no harm.
func (t *trimmer) round(ctx context.Context) {
	if t.stranded(ctx) {
		return
	}
	for _, capability := range t.p.capabilities.known() {
		if err := t.trim(ctx, capability, time.Now()); err != nil && ctx.Err() == nil {
			t.p.log.Warn("can't trim, trying again", "capability", capability, "error", err)
		}
	}
}

// stranded tells whether there are advisories to be read: the ack floor passes
// what the broker gave up on, and such a message must become a dead letter
// before it may be purged. When in doubt, it does.
func (t *trimmer) stranded(ctx context.Context) bool {
	cons, err := t.p.js.Consumer(ctx, streams.AdvisoryStream, streams.AdvisoryConsumer)
	return err != nil || cons.CachedInfo().NumPending > 0 || cons.CachedInfo().NumAckPending > 0
}

func (t *trimmer) trim(ctx context.Context, capability string, now time.Time) error {
	name := streams.EventStream(capability)
	stream, err := t.p.js.Stream(ctx, name)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	aged := t.aged(name, position{at: now, last: info.State.LastSeq})
	if info.State.Msgs == 0 {
		return nil
	}
	cons, err := stream.Consumer(ctx, streams.EventConsumer)
	if err != nil {
		return err
	}
	floor := t.floors[name]
	t.floors[name] = cons.CachedInfo().AckFloor.Stream
	if limit := info.Config.MaxBytes; limit <= 0 || info.State.Bytes < uint64(limit)/2 {
		floor = min(floor, aged)
	}
	if floor < info.State.FirstSeq {
		return nil
	}
	killpoint.Here(killpoint.Trimming)
	return stream.Purge(ctx, jetstream.WithPurgeSequence(floor+1))
}

// aged notes the stream's end and returns the last sequence that is known to
// be older than the de-duplication window; 0 when none is.
func (t *trimmer) aged(stream string, now position) uint64 {
	seen := append(t.seen[stream], now)
	var aged uint64
	for len(seen) > 0 && now.at.Sub(seen[0].at) > streams.EventDuplicates {
		aged = seen[0].last
		if len(seen) > 1 && now.at.Sub(seen[1].at) <= streams.EventDuplicates {
			break // the newest that is old enough; kept for the next round
		}
		seen = seen[1:]
	}
	t.seen[stream] = seen
	return aged
}
