package admin_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"backstop/cmd/backstop/admin"
	"backstop/streams"
	"backstop/streams/manifest"
)

// fakes stand in for parts that are wired elsewhere.
type fakes struct {
	calls map[string]admin.PendingCall
	asked admin.AttemptQuery
}

func (f *fakes) List(_ context.Context, state string) ([]admin.PendingCall, error) {
	var list []admin.PendingCall
	for _, c := range f.calls {
		if state == "" || c.State == state {
			list = append(list, c)
		}
	}
	return list, nil
}

func (f *fakes) Get(_ context.Context, id string) (admin.PendingCall, error) {
	c, ok := f.calls[id]
	if !ok {
		return c, admin.ErrPendingNotFound
	}
	return c, nil
}

func (f *fakes) Decide(_ context.Context, id string, approve bool, by, why string) (admin.PendingCall, error) {
	c := f.calls[id]
	if c.State != "waiting" {
		return c, admin.ErrPendingDecided
	}
	c.State, c.By, c.Why, c.Decided = "rejected", by, why, time.Now().UTC()
	if approve {
		c.State = "approved"
	}
	f.calls[id] = c
	return c, nil
}

func (f *fakes) Search(_ context.Context, q admin.AttemptQuery) (admin.AttemptPage, error) {
	f.asked = q
	return admin.AttemptPage{Attempts: []streams.Attempt{{
		ID: "e1", App: "quiz", Capability: "analytics", Time: time.Now().UTC(), Attempt: 1, DurationMs: 12.5, Verdict: "retry", Status: 503, Reason: "status",
	}}, Next: "more"}, nil
}

func (f *fakes) Endpoints(context.Context, time.Time) ([]admin.EndpointStats, error) {
	return []admin.EndpointStats{{
		EndpointID: streams.EndpointID{App: "quiz", Capability: "analytics"}, Attempts: 100, Successes: 90, MeanMs: 20, P50Ms: 10, P95Ms: 50, P99Ms: 99,
		Points: []admin.Point{{Time: time.Now().UTC(), Attempts: 100, Successes: 90, P95Ms: 50}},
	}, {
		EndpointID: streams.EndpointID{App: "quiz", Capability: "quizAnswer"}, Attempts: 100, Successes: 100, MeanMs: 10,
	}}, nil
}

func (f *fakes) Checks(context.Context) (map[string]admin.HealthCheck, error) {
	return map[string]admin.HealthCheck{"shop": {State: "unhealthy", Time: time.Now().UTC()}}, nil
}

func (f *fakes) Raised(context.Context) ([]admin.Alert, error) {
	return []admin.Alert{{Rule: "success_rate", App: "quiz", Capability: "analytics", Since: time.Now().UTC(), Message: "90% < 95%", Value: 0.9, Threshold: 0.95}}, nil
}

func withFakes(t *testing.T) (*bundle, *fakes) {
	t.Helper()
	b := start(t, admin.Config{})
	f := &fakes{calls: map[string]admin.PendingCall{}}
	for _, id := range []string{"p1", "p2"} {
		f.calls[id] = admin.PendingCall{ID: id, App: "quiz", Capability: "participantRegistration", State: "waiting", Created: time.Now().UTC(), Payload: []byte(`{"n":1}`)}
	}
	b.backend.Pending, b.backend.Attempts, b.backend.Stats, b.backend.Health, b.backend.Alerts = f, f, f, f, f
	b.backend.Defaults = manifest.Defaults{}
	b.srv.Attach(b.backend)
	return b, f
}

func TestPending(t *testing.T) {
	b, _ := withFakes(t)
	if a := b.want(200, "", "GET", "/api/v1/pending", ""); strings.Count(a.body, `"waiting"`) != 2 {
		t.Errorf("pending: %s", a.body)
	}
	if a := b.want(200, "", "POST", "/api/v1/pending/p1/approve", `{"reason":"a regular"}`, "X-Operator: ann"); !strings.Contains(a.body, `"approved"`) || !strings.Contains(a.body, `"by":"ann"`) {
		t.Errorf("approved: %s", a.body)
	}
	b.want(409, "already_decided", "POST", "/api/v1/pending/p1/reject", "")
	b.want(404, "pending_not_found", "POST", "/api/v1/pending/p9/reject", "")
	b.want(404, "pending_not_found", "GET", "/api/v1/pending/p9", "")
	b.want(200, "", "POST", "/api/v1/pending/p2/reject", "")
	b.want(200, "", "GET", "/api/v1/pending/p2", "")
	b.want(400, "bad_parameter", "GET", "/api/v1/pending?state=open", "")
	if a := b.want(200, "", "GET", "/api/v1/pending?state=all", ""); strings.Contains(a.body, `"waiting"`) {
		t.Errorf("pending: %s", a.body)
	}
	a := b.want(200, "", "GET", "/api/v1/audit", "")
	if !strings.Contains(a.body, `"pending_approved"`) || !strings.Contains(a.body, `"id":"p1"`) || !strings.Contains(a.body, `"a regular"`) {
		t.Errorf("audit: %s", a.body)
	}
}

func TestAttempts(t *testing.T) {
	b, f := withFakes(t)
	a := b.want(200, "", "GET", "/api/v1/attempts?app=quiz&capability=analytics&id=e1&outcome=retry&since=1h&limit=7&cursor=there", "")
	if !strings.Contains(a.body, `"nextCursor":"more"`) {
		t.Errorf("attempts: %s", a.body)
	}
	if q := f.asked; q.App != "quiz" || q.Capability != "analytics" || q.ID != "e1" || q.Outcome != "retry" || q.Limit != 7 || q.Cursor != "there" || time.Since(q.Since) < time.Hour {
		t.Errorf("asked for %+v", q)
	}
	for _, query := range []string{"app=*", "capability=a.b", "outcome=bad", "since=soon", "until=soon", "limit=-1"} {
		b.want(400, "bad_parameter", "GET", "/api/v1/attempts?"+query, "")
	}
}

func TestAlerts(t *testing.T) {
	b, _ := withFakes(t)
	if a := b.want(200, "", "GET", "/api/v1/alerts", ""); !strings.Contains(a.body, `"success_rate"`) {
		t.Errorf("alerts: %s", a.body)
	}
}

// What a process doesn't have, it says.
func TestMissingParts(t *testing.T) {
	b := start(t, admin.Config{})
	for _, path := range []string{"/api/v1/pending", "/api/v1/pending/p1", "/api/v1/attempts", "/api/v1/alerts"} {
		b.want(501, "not_implemented", "GET", path, "")
	}
	b.want(501, "not_implemented", "POST", "/api/v1/pending/p1/approve", "")
}

type overviewDoc struct {
	SuccessRate  *float64 `json:"successRate"`
	MeanMs       *float64 `json:"meanMs"`
	OpenBreakers int      `json:"openBreakers"`
	DeadLetters  struct{ Total int }
	Apps         []struct {
		App, State, Because string
		SuccessRate         *float64 `json:"successRate"`
		DeadLetters         int      `json:"deadLetters"`
		Endpoints           []struct {
			Capability, Kind string
			TimeoutMs        int      `json:"timeoutMs"`
			P95Ms            *float64 `json:"p95Ms"`
			Breaker          *struct{ State string }
			Points           []any
		}
	}
}

func TestOverview(t *testing.T) {
	b, _ := withFakes(t)
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest)
	for _, app := range []string{"shop", "blog"} {
		b.want(201, "", "PUT", "/api/v1/apps/"+app, strings.Replace(quizManifest, `"quiz"`, `"`+app+`"`, 1))
	}
	b.letter("e1", "analytics", streams.Exhausted, `{}`)
	b.want(200, "", "POST", "/api/v1/breakers/quiz/analytics/open", "")

	var o overviewDoc
	b.want(200, "", "GET", "/api/v1/overview", "").decode(t, &o)
	if *o.SuccessRate != 0.95 || *o.MeanMs != 15 || o.OpenBreakers != 1 || o.DeadLetters.Total != 1 || len(o.Apps) != 3 {
		t.Fatalf("overview: %+v", o)
	}
	// The sick first: shop's health check fails, one of quiz's circuits is open.
	if got := o.Apps[0].App + " " + o.Apps[0].State + " " + o.Apps[1].App + " " + o.Apps[1].State + " " + o.Apps[2].App + " " + o.Apps[2].State; got != "shop down quiz degraded blog healthy" {
		t.Errorf("apps: %s", got)
	}
	quiz := o.Apps[1]
	if quiz.DeadLetters != 1 || *quiz.SuccessRate != 0.95 || len(quiz.Endpoints) != 2 || o.Apps[2].SuccessRate != nil {
		t.Errorf("quiz: %+v", quiz)
	}
	if e := quiz.Endpoints[0]; e.Kind != "event" || e.TimeoutMs != 30000 || *e.P95Ms != 50 || e.Breaker.State != "forced-open" || len(e.Points) != 1 {
		t.Errorf("analytics: %+v", e)
	}
	b.want(200, "", "GET", "/api/v1/overview?app=blog", "").decode(t, &o)
	if len(o.Apps) != 1 || o.Apps[0].App != "blog" {
		t.Errorf("blog alone: %+v", o.Apps)
	}
	b.want(200, "", "POST", "/api/v1/apps/blog/disable", "")
	b.want(200, "", "GET", "/api/v1/overview?app=blog", "").decode(t, &o)
	if o.Apps[0].State != "down" || o.Apps[0].Because == "" {
		t.Errorf("blog without traffic: %+v", o.Apps[0])
	}
}

// Without rollups there are no rates, and everything else is there.
func TestOverviewWithoutRollups(t *testing.T) {
	b := start(t, admin.Config{})
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest)
	var o overviewDoc
	b.want(200, "", "GET", "/api/v1/overview", "").decode(t, &o)
	if o.SuccessRate != nil || len(o.Apps) != 1 || o.Apps[0].State != "healthy" {
		t.Errorf("overview: %+v", o)
	}
}
