package consumers

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// noticeEvery is the least time between two coalesced notices of one kind for
// one endpoint (contract, section 10). What happens in between is counted.
const noticeEvery = time.Minute

// noticeBacklog bounds the notices that wait to be published. They inform; when
// NATS can't take them, the log has them, and the pipeline goes on.
const noticeBacklog = 1024

// notices publishes what people should know. Publishing never holds up an event.
type notices struct {
	js  jetstream.JetStream
	log *slog.Logger
	out chan streams.Notice

	mu     sync.Mutex
	counts map[noticeKey]*noticeCount
}

type noticeKey struct {
	kind   streams.NoticeKind
	id     streams.EndpointID
	reason string // what is counted apart within a kind; "" for nothing
}

// noticeCount is what was seen of one kind since its last notice.
type noticeCount struct {
	sent    time.Time
	count   int
	message string
	details map[string]any
	audits  []map[string]any
}

// maxAudits bounds the audits of one notice, a few hundred bytes each, to what
// a message can carry.
const maxAudits = 500

func newNotices(js jetstream.JetStream, log *slog.Logger) *notices {
	return &notices{js: js, log: log, out: make(chan streams.Notice, noticeBacklog), counts: make(map[noticeKey]*noticeCount)}
}

// noticeOf is a notice of now.
func noticeOf(kind streams.NoticeKind, id streams.EndpointID, message string, details map[string]any) streams.Notice {
	return streams.Notice{Kind: kind, App: id.App, Capability: id.Capability, Time: time.Now(), Message: message, Details: details}
}

// send publishes a notice that stands for itself.
func (n *notices) send(kind streams.NoticeKind, id streams.EndpointID, message string, details map[string]any) {
	select {
	case n.out <- noticeOf(kind, id, message, details):
	default:
		n.log.Warn("a notice was dropped, as NATS doesn't take them", "kind", string(kind), "endpoint", id.String(), "message", message)
	}
}

// add publishes a notice at once if there was none of its kind for the
// endpoint within noticeEvery, and otherwise counts it for the next.
func (n *notices) add(kind streams.NoticeKind, id streams.EndpointID, message string, details map[string]any) {
	n.addAudited(noticeKey{kind: kind, id: id}, message, details, nil)
}

// addAudited is add for what is counted apart within a kind, with what is to be
// audited of each (nil for nothing): those are kept one by one, where of the
// details only the last are.
func (n *notices) addAudited(key noticeKey, message string, details, audit map[string]any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.of(key)
	c.add(message, details)
	if audit != nil && len(c.audits) < maxAudits {
		c.audits = append(c.audits, audit)
	}
	if now := time.Now(); now.Sub(c.sent) >= noticeEvery {
		n.flush(key, c, now)
	}
}

// addStored is add for what must be known before what it is about may be
// forgotten: a notice that is due is stored when it returns nil, once for its
// message id. One that is counted for the next is not, as its endpoint was
// noticed a moment ago; a crash loses it from the count.
func (n *notices) addStored(ctx context.Context, key noticeKey, message string, details map[string]any, id string) error {
	n.mu.Lock()
	c := n.of(key)
	before, now := c.sent, time.Now()
	if now.Sub(before) < noticeEvery {
		c.add(message, details)
		n.mu.Unlock()
		return nil
	}
	c.sent = now // others that come meanwhile are counted
	n.mu.Unlock()
	msg, err := noticeOf(key.kind, key.id, message, counted(1, details)).Msg()
	if err == nil {
		_, err = n.js.PublishMsg(ctx, msg, jetstream.WithMsgID(id))
	}
	if err != nil {
		n.mu.Lock()
		c.sent = before
		n.mu.Unlock()
	}
	return err
}

// of returns the count of a key. The lock is held.
func (n *notices) of(key noticeKey) *noticeCount {
	c := n.counts[key]
	if c == nil {
		c = &noticeCount{}
		n.counts[key] = c
	}
	return c
}

// add counts one more, of which the last one's words are kept.
func (c *noticeCount) add(message string, details map[string]any) {
	c.count++
	c.message, c.details = message, details
}

// counted returns the details with how many they stand for.
func counted(count int, details map[string]any) map[string]any {
	with := map[string]any{"count": count}
	maps.Copy(with, details)
	return with
}

// flush sends what was counted. The lock is held.
func (n *notices) flush(key noticeKey, c *noticeCount, now time.Time) {
	details := counted(c.count, c.details)
	if len(c.audits) > 0 {
		details["audits"] = c.audits
	}
	n.send(key.kind, key.id, c.message, details)
	c.sent, c.count, c.audits = now, 0, nil
}

// sweep sends what has waited for its minute, and forgets what has been quiet
// for two.
func (n *notices) sweep(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for key, c := range n.counts {
		switch age := now.Sub(c.sent); {
		case c.count > 0 && age >= noticeEvery:
			n.flush(key, c, now)
		case c.count == 0 && age >= 2*noticeEvery:
			delete(n.counts, key)
		}
	}
}

// run publishes until ctx ends, and then what is left, counted ones included.
func (n *notices) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case notice := <-n.out:
			n.publish(ctx, notice)
		case now := <-tick.C:
			n.sweep(now)
		case <-ctx.Done():
			n.drain()
			return
		}
	}
}

func (n *notices) drain() {
	n.mu.Lock()
	for key, c := range n.counts {
		if c.count > 0 {
			n.flush(key, c, time.Now())
		}
	}
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for {
		select {
		case notice := <-n.out:
			n.publish(ctx, notice)
		default:
			return
		}
	}
}

func (n *notices) publish(ctx context.Context, notice streams.Notice) {
	msg, err := notice.Msg()
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		_, err = n.js.PublishMsg(ctx, msg)
	}
	if err != nil {
		n.log.Warn("a notice could not be published", "kind", string(notice.Kind), "message", notice.Message, "error", err)
	}
}
