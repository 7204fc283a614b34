package admin_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"backstop/cmd/backstop/admin"
	"backstop/consumers"
	"backstop/consumers/rollup"
	"backstop/streams"
)

type overviewDoc struct {
	Attempts               int
	SuccessRate, AverageMs *float64
	OpenBreakers, Disabled int
	DeadLetters            struct{ Total int }
	Apps                   []struct {
		App, State, Because string
		DeadLetters         int
		SuccessRate         *float64
		Endpoints           []struct {
			Capability, Kind string
			TimeoutMs        int
			Breaker          *struct{ State string }
			P95Ms            *float64
			Points           []struct{ Attempts int }
		}
	}
}

// An app whose health check fails is down, whatever its breakers say.
func TestOverviewTellsHealth(t *testing.T) {
	b := start(t, admin.Config{})
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest)
	store, err := b.backend.Load().Ops.Healths(t.Context())
	b.must(err)
	h := streams.Health{App: "quiz", Since: time.Now().UTC(), CheckedAt: time.Now().UTC(), Result: streams.Unhealthy, Status: 500, Metrics: streams.MetricsUnknown}
	for state, want := range map[streams.HealthState]string{streams.Healthy: "healthy", streams.Degraded: "degraded", streams.Unhealthy: "down"} {
		h.State = state
		h.Revision, err = store.Put(t.Context(), h)
		b.must(err)
		var o overviewDoc
		b.want(200, "", "GET", "/api/v1/overview", "").decode(t, &o)
		if o.Apps[0].State != want || (o.Apps[0].Because == "") != (want == "healthy") {
			t.Errorf("%s: %s because %q, want %s", state, o.Apps[0].State, o.Apps[0].Because, want)
		}
	}
	if a := b.want(200, "", "GET", "/api/v1/apps", ""); !strings.Contains(a.body, `"health":{"app":"quiz"`) {
		t.Errorf("apps: %s", a.body)
	}
}

func TestOverview(t *testing.T) {
	b := start(t, admin.Config{})
	for _, app := range []string{"blog", "quiz", "shop"} {
		b.want(201, "", "PUT", "/api/v1/apps/"+app, strings.Replace(quizManifest, `"quiz"`, `"`+app+`"`, 1))
	}
	b.letter("e1", "analytics", streams.Exhausted, `{}`)
	b.want(200, "", "POST", "/api/v1/breakers/quiz/analytics/open", "")
	b.want(200, "", "POST", "/api/v1/apps/shop/disable", "")

	var o overviewDoc
	b.want(200, "", "GET", "/api/v1/overview", "").decode(t, &o)
	if o.OpenBreakers != 1 || o.Disabled != 2 || o.DeadLetters.Total != 1 || len(o.Apps) != 3 {
		t.Fatalf("overview: %+v", o)
	}
	// The sick first.
	for i, want := range []string{"shop down", "quiz degraded", "blog healthy"} {
		if got := o.Apps[i].App + " " + o.Apps[i].State; got != want || (o.Apps[i].Because == "") != (i == 2) {
			t.Errorf("app %d is %s (%s), want %s", i, got, o.Apps[i].Because, want)
		}
	}
	quiz := o.Apps[1]
	if quiz.DeadLetters != 1 || len(quiz.Endpoints) != 2 {
		t.Fatalf("quiz: %+v", quiz)
	}
	if e := quiz.Endpoints[0]; e.Kind != "event" || e.TimeoutMs != 30000 || e.Breaker.State != "forced-open" {
		t.Errorf("analytics: %+v", e)
	}
	if e := quiz.Endpoints[1]; e.Kind != "call" || e.Breaker != nil {
		t.Errorf("quizAnswer: %+v", e)
	}
}

// The rates are those of the rollups.
func TestOverviewRates(t *testing.T) {
	b := start(t, admin.Config{})
	for _, app := range []string{"quiz", "shop"} {
		b.want(201, "", "PUT", "/api/v1/apps/"+app, strings.Replace(quizManifest, `"quiz"`, `"`+app+`"`, 1))
	}
	kv, err := b.js.KeyValue(t.Context(), streams.RollupsBucket)
	b.must(err)
	fold, err := rollup.Resume(nil, 0)
	b.must(err)
	for i := range 10 {
		e := rollup.Entry{Attempt: 1, DurationMs: 20, Requested: true, Success: i != 0}
		if i == 0 {
			e.Reason = "timeout"
		}
		fold.Add(uint64(i+1), time.Now(), streams.EndpointID{Capability: "analytics", App: "quiz"}, e)
	}
	for _, part := range fold.Unstored() {
		value, err := part.Encode()
		b.must(err)
		_, err = kv.Put(t.Context(), part.Key(), value)
		b.must(err)
	}
	rollups := consumers.NewRollups(b.js, kv, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- rollups.Run(ctx) }()
	defer func() {
		stop()
		b.must(<-ended)
	}()
	b.backend.Store(&admin.Backend{Ops: b.backend.Load().Ops, Rollups: rollups})

	var o overviewDoc
	b.want(200, "", "GET", "/api/v1/overview", "").decode(t, &o)
	if o.Attempts != 10 || *o.SuccessRate != 0.9 || *o.AverageMs != 20 || len(o.Apps) != 2 || o.Apps[0].App != "quiz" {
		t.Fatalf("overview: %+v", o)
	}
	quiz, shop := o.Apps[0], o.Apps[1]
	if quiz.State != "degraded" || *quiz.SuccessRate != 0.9 || shop.State != "healthy" || shop.SuccessRate != nil {
		t.Errorf("quiz %+v, shop %+v", quiz, shop)
	}
	if p95 := *quiz.Endpoints[0].P95Ms; p95 < 19.5 || p95 > 20.5 || quiz.Endpoints[0].Points != nil || quiz.Endpoints[1].P95Ms != nil {
		t.Errorf("p95 %v, endpoints %+v", p95, quiz.Endpoints)
	}
	b.want(200, "", "GET", "/api/v1/overview?app=quiz", "").decode(t, &o)
	if len(o.Apps) != 1 || len(o.Apps[0].Endpoints[0].Points) == 0 {
		t.Errorf("quiz alone: %+v", o.Apps)
	}
}
