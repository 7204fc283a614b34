package consumers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/consumers"
	"backstop/streams"
)

// clock is a time that a test moves on.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// alerting makes the replica evaluate often, by the clock.
func alerting(c *clock) func(*consumers.Config) {
	return func(cfg *consumers.Config) { cfg.Now, cfg.AlertEvery = c.now, 50*time.Millisecond }
}

func (b *bundle) alerts() *streams.Alerts {
	b.Helper()
	kv, err := b.js.KeyValue(b.ctx, streams.AlertsBucket)
	b.must(err)
	return streams.NewAlerts(kv)
}

func (b *bundle) awaitAlert(key streams.AlertKey, raised bool) {
	b.Helper()
	b.eventually(fmt.Sprintf("the alert %s to be raised: %v", key, raised), func() bool {
		list, err := b.alerts().List(b.ctx)
		b.must(err)
		for _, a := range list {
			if a.AlertKey == key {
				return raised
			}
		}
		return !raised
	})
}

// announcedAs counts the notices of an alert by kind.
func (b *bundle) announcedAs(key streams.AlertKey) map[streams.NoticeKind]int {
	b.Helper()
	counts := make(map[streams.NoticeKind]int)
	for n, err := range streams.NewNoticeLog(b.js).Select(b.ctx, streams.NoticeFilter{}) {
		b.must(err)
		if n.Details["rule"] == string(key.Rule) && n.App == key.App && n.Capability == key.Capability {
			counts[n.Kind]++
		}
	}
	return counts
}

func (b *bundle) awaitCleared(key streams.AlertKey) {
	b.Helper()
	b.awaitAlert(key, false)
	b.eventually("the notice of "+key.String(), func() bool { return b.announcedAs(key)[streams.NoticeAlertCleared] > 0 })
	n := b.announcedAs(key)
	if n[streams.NoticeAlertRaised] != 1 || n[streams.NoticeAlertCleared] != 1 {
		b.Errorf("notices of %s: %v, want it raised and cleared once each", key, n)
	}
}

// Each of the four is raised by the real thing, stays raised across a restart
// without being told again, and is cleared.
func TestAlertsAreRaisedAndClearedOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := &clock{}
	broken := newApp(b, always(422))
	slow := newApp(b, func(r *http.Request) (int, http.Header, string) {
		select {
		case <-time.After(900 * time.Millisecond):
		case <-r.Context().Done():
		}
		return 200, nil, ""
	})
	b.apply("broken", broken.URL, quick, "analytics")
	b.apply("slow", slow.URL, map[string]any{"timeout": 1000, "concurrency": 50, "breaker": map[string]any{"failureThreshold": 1000}}, "analytics")
	b.apply("tripped", slow.URL, nil, "report")
	p := b.start("r1", b.logged(), alerting(c))

	rate := streams.AlertKey{Rule: streams.AlertSuccessRate, App: "broken", Capability: "analytics"}
	tooSlow := streams.AlertKey{Rule: streams.AlertSlow, App: "slow", Capability: "analytics"}
	open := streams.AlertKey{Rule: streams.AlertBreakerOpen, App: "tripped", Capability: "report"}
	letters := streams.AlertKey{Rule: streams.AlertDeadLetters}
	all := []streams.AlertKey{rate, tooSlow, open, letters}

	for i := range 101 {
		b.publish(endpoint("analytics", "broken"), fmt.Sprintf("b%d", i), `{}`)
	}
	for i := range 25 {
		b.publish(endpoint("analytics", "slow"), fmt.Sprintf("s%d", i), `{}`)
	}
	b.must(b.gates.Set(b.ctx, streams.Gate{
		Capability: "report", App: "tripped", State: streams.GateOpen,
		Since: time.Now(), Until: time.Now().Add(time.Hour), Reason: "5 failures in a row", By: "r1",
	}))
	for _, key := range all {
		b.awaitAlert(key, true)
	}
	if n := p.AlertsActive(); n < len(all) {
		t.Errorf("%d alerts are active at the replica that raised them, want at least %d", n, len(all))
	}
	b.must(p.stop())
	p = b.start("r2", b.logged(), alerting(c))
	b.eventually("the other replica to evaluate", func() bool { return p.AlertsActive() >= len(all) })
	for _, key := range all {
		if n := b.announcedAs(key); n[streams.NoticeAlertRaised] != 1 || len(n) != 1 {
			t.Errorf("notices of %s after a takeover: %v, want it raised once", key, n)
		}
	}

	// Back to normal: the gate is gone, the letters are decided on, the hour is over.
	_, err := b.gates.ClearIf(b.ctx, endpoint("report", "tripped"), func(streams.Gate) bool { return true })
	b.must(err)
	for _, d := range b.deadLetters() {
		b.must(b.letters.Discard(b.ctx, d, "ann", "test"))
	}
	b.awaitCleared(letters)
	c.advance(2 * time.Hour)
	for _, key := range []streams.AlertKey{rate, tooSlow, open} {
		b.awaitCleared(key)
	}
}

// A breaker that opened and closed again before anybody looked was open.
func TestAlertOfABreakerThatWasOpenBriefly(t *testing.T) {
	b := setup(t)
	c := &clock{}
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, nil, "report")
	b.start("r1", alerting(c), func(cfg *consumers.Config) { cfg.AlertEvery = time.Hour })
	key := streams.AlertKey{Rule: streams.AlertBreakerOpen, App: "quiz", Capability: "report"}
	// A bucket keeps the last word of a key only: a gate that goes at once may
	// not be heard of at all, and then there is nothing to raise.
	b.eventually("the alert", func() bool {
		b.must(b.gates.Set(b.ctx, streams.Gate{Capability: "report", App: "quiz", State: streams.GateOpen, Since: time.Now(), Until: time.Now().Add(time.Hour)}))
		_, err := b.gates.ClearIf(b.ctx, key.ID(), func(streams.Gate) bool { return true })
		b.must(err)
		list, err := b.alerts().List(b.ctx)
		b.must(err)
		return slices.ContainsFunc(list, func(a streams.Alert) bool { return a.AlertKey == key })
	})
}

// An announcement that a crash cut short is made up for.
func TestAlertsAreAnnouncedAfterACrash(t *testing.T) {
	b := setup(t)
	gone := streams.Alert{AlertKey: streams.AlertKey{Rule: streams.AlertSlow, App: "quiz", Capability: "report"}, Since: time.Now().UTC(), Announced: true}
	_, err := b.alerts().Raise(b.ctx, gone)
	b.must(err)
	gone.ClearedAt = time.Now().UTC()
	_, err = b.alerts().Clear(b.ctx, gone)
	b.must(err)
	letters := streams.Alert{AlertKey: streams.AlertKey{Rule: streams.AlertDeadLetters}, Since: time.Now().UTC(), Message: "many"}
	_, err = b.alerts().Raise(b.ctx, letters)
	b.must(err)
	b.start("r1", alerting(&clock{}))
	b.awaitCleared(letters.AlertKey) // there are none
	b.awaitAlert(gone.AlertKey, false)
	b.eventually("the notice", func() bool { return b.announcedAs(gone.AlertKey)[streams.NoticeAlertCleared] == 1 })
}

// An app that declares platformNotice gets notices as events, and none about
// itself.
func TestNoticesAreForwarded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	chat := newApp(b, always(401)) // which makes a notice of each attempt
	p := b.start("r1")
	send := func(n streams.Notice) {
		t.Helper()
		msg, err := n.Msg()
		b.must(err)
		_, err = b.js.PublishMsg(b.ctx, msg)
		b.must(err)
	}
	send(streams.Notice{Kind: streams.NoticeMisconfigured, App: "quiz", Capability: "report", Message: "before"})
	b.apply("chat", chat.URL, quick, streams.PlatformNotice)
	b.eventually("the consumer", func() bool {
		_, err := b.js.Consumer(b.ctx, streams.NoticeStream, streams.NoticeConsumer)
		return err == nil
	})
	send(streams.Notice{Kind: streams.NoticeMisconfigured, App: "quiz", Capability: "report", Message: "one"})
	b.awaitDeadLetters(1)
	b.must(p.stop())
	b.start("r2")
	send(streams.Notice{Kind: streams.NoticeAlertRaised, Message: "two"})
	b.awaitDeadLetters(2)
	// What it answered was noticed, and is not forwarded.
	b.eventually("the notices about the app itself", func() bool {
		for _, err := range streams.NewNoticeLog(b.js).Select(b.ctx, streams.NoticeFilter{Kind: streams.NoticeDeadLettered}) {
			b.must(err)
			return true
		}
		return false
	})
	b.eventually("everything to be forwarded", func() bool {
		cons, err := b.js.Consumer(b.ctx, streams.NoticeStream, streams.NoticeConsumer)
		b.must(err)
		i := cons.CachedInfo()
		return i.NumPending == 0 && i.NumAckPending == 0
	})
	var got []string
	for id := range chat.byID() {
		for _, r := range chat.received() {
			if r.header.Get("X-Request-Id") == id {
				n := streams.Notice{}
				b.must(json.Unmarshal([]byte(r.payload), &n))
				got = append(got, n.Message)
				break
			}
		}
	}
	if len(got) != 2 || got[0] == got[1] || got[0] != "one" && got[0] != "two" {
		t.Errorf("forwarded %q, want one and two", got)
	}
	b.must(b.manifests.Delete(b.ctx, "chat"))
	b.eventually("the consumer to be gone", func() bool {
		_, err := b.js.Consumer(b.ctx, streams.NoticeStream, streams.NoticeConsumer)
		return errors.Is(err, jetstream.ErrConsumerNotFound)
	})
}
