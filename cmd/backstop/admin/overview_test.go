package admin_test

import (
	"strings"
	"testing"
	"time"

	"backstop/cmd/backstop/admin"
	"backstop/streams"
)

type overviewDoc struct {
	OpenBreakers, Disabled int
	DeadLetters            struct{ Total int }
	Apps                   []struct {
		App, State, Because string
		DeadLetters         int
		Endpoints           []struct {
			Capability, Kind string
			TimeoutMs        int
			Breaker          *struct{ State string }
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
