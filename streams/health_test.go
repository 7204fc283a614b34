package streams_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"backstop/streams"
	"backstop/streams/bucket"
)

func TestHealths(t *testing.T) {
	b := setup(t)
	kv, err := b.js.KeyValue(b.ctx, streams.HealthBucket)
	b.must(err)
	healths := streams.NewHealths(kv)
	if _, there, err := healths.Get(b.ctx, "quiz"); err != nil || there {
		t.Errorf("Get of nothing: %v, %v", there, err)
	}
	b.must(healths.Remove(b.ctx, "quiz"))
	want := streams.Health{
		App: "quiz", State: streams.Unhealthy, Since: time.Unix(1, 0).UTC(), CheckedAt: time.Unix(2, 0).UTC(), Result: streams.Unhealthy,
		Status: 503, DurationMs: 12, Reason: "status", Error: "the app answered 503", Failures: 2, Metrics: streams.MetricsPresent, By: "r1",
	}
	want.Revision, err = healths.Put(b.ctx, want)
	b.must(err)
	if got, there, err := healths.Get(b.ctx, "quiz"); err != nil || !there || got != want {
		t.Errorf("Get = %+v, %v, %v; want %+v", got, there, err, want)
	}
	if _, err := healths.Put(b.ctx, streams.Health{App: "quiz", State: streams.Healthy}); !errors.Is(err, bucket.ErrConflict) {
		t.Errorf("an entry that was never seen was overwritten: %v", err)
	}
	// Anybody may have put anything there.
	_, err = kv.PutString(b.ctx, "broken", `nonsense`)
	b.must(err)
	_, err = kv.PutString(b.ctx, "liar", `{"app":"quiz","state":"healthy"}`)
	b.must(err)
	list, err := healths.List(b.ctx)
	b.must(err)
	if len(list) != 3 || list[0].App != "broken" || list[0].State != streams.HealthUnknown || list[1].App != "liar" || list[2] != want {
		t.Errorf("List = %+v", list)
	}

	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	seen := make(map[string]streams.HealthState)
	err = healths.Watch(ctx, slog.New(slog.DiscardHandler), func() { b.must(healths.Remove(b.ctx, "liar")) }, func(app string, h *streams.Health) {
		if h == nil {
			cancel()
			seen[app] = "gone"
			return
		}
		seen[app] = h.State
	})
	b.must(err)
	if len(seen) != 3 || seen["quiz"] != streams.Unhealthy || seen["liar"] != "gone" {
		t.Errorf("the watch told %v", seen)
	}
}

func TestHasten(t *testing.T) {
	b := setup(t)
	kv, err := b.js.KeyValue(b.ctx, streams.BreakersBucket)
	b.must(err)
	gates := streams.NewGates(kv)
	now := time.Now()
	gate := func(s streams.GateState, until time.Time) *streams.Gate {
		return &streams.Gate{Capability: quiz.Capability, App: quiz.App, State: s, Until: until, Since: now.Add(-time.Minute), Reason: "before"}
	}
	for _, tc := range []struct {
		why  string
		gate *streams.Gate
		want bool
	}{
		{"no gate: the endpoint is closed, and stays so", nil, false},
		{"one that waits", gate(streams.GateOpen, now.Add(time.Hour)), true},
		{"one whose wait is over: it is half-open already", gate(streams.GateOpen, now.Add(-time.Second)), false},
		{"one that was opened by a person", gate(streams.GateForced, time.Time{}), false},
		{"one that is disabled", gate(streams.GateDisabled, time.Time{}), false},
		{"one that was hastened before", gate(streams.GateHalfOpen, time.Time{}), false},
	} {
		if tc.gate != nil {
			b.must(gates.Set(b.ctx, *tc.gate))
		}
		changed, err := gates.Hasten(b.ctx, quiz, now, "healthy", "r1")
		b.must(err)
		got, there, err := gates.Get(b.ctx, quiz)
		b.must(err)
		switch {
		case changed != tc.want || there != (tc.gate != nil):
			t.Errorf("%s: changed %v, there %v", tc.why, changed, there)
		case changed && (got.State != streams.GateHalfOpen || !got.Until.IsZero() || got.Reason != "healthy" || got.By != "r1" || !got.Since.Equal(tc.gate.Since)):
			t.Errorf("%s: %+v", tc.why, got)
		case there && !changed && (got.State != tc.gate.State || got.Reason != "before"):
			t.Errorf("%s: it was changed to %+v", tc.why, got)
		}
	}
}
