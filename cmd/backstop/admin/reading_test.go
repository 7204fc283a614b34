package admin_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"backstop/cmd/backstop/admin"
	"backstop/streams"
)

// pages reads a list to its end and returns what pick finds in each page.
func (b *bundle) pages(path string, pick func(body string) string) string {
	b.Helper()
	var all []string
	cursor := ""
	for range 20 {
		var p struct{ NextCursor string }
		a := b.want(200, "", "GET", path+cursor, "")
		a.decode(b.T, &p)
		all = append(all, pick(a.body))
		if cursor = "&cursor=" + p.NextCursor; p.NextCursor == "" {
			return strings.Join(all, "|")
		}
	}
	b.Fatalf("%s never ends", path)
	return ""
}

// between returns every text between the two, separated by blanks.
func between(begin, end string) func(string) string {
	return func(body string) string {
		var found []string
		for _, part := range strings.Split(body, begin)[1:] {
			text, _, _ := strings.Cut(part, end)
			found = append(found, text)
		}
		return strings.Join(found, " ")
	}
}

func TestAttempts(t *testing.T) {
	b := start(t, admin.Config{})
	for i, a := range []streams.Attempt{
		{ID: "a", App: "quiz", Capability: "analytics", Verdict: "retry", Reason: "timeout", Requested: true, TimedOut: true, Error: "no answer"},
		{ID: "a", App: "quiz", Capability: "analytics", Verdict: "delivered", Requested: true, Success: true, Status: 204},
		{ID: "b", App: "quiz", Capability: "email", Verdict: "rejected", Reason: "status", Requested: true, Status: 400, Answer: "<script>"},
		{ID: "c", App: "shop", Capability: "email", Verdict: "delivered", Requested: true, Success: true, Status: 200},
	} {
		a.Time, a.Attempt, a.DurationMs = time.Now().UTC(), i+1, 12.5
		msg, err := a.Msg()
		b.must(err)
		_, err = b.js.PublishMsg(t.Context(), msg)
		b.must(err)
	}
	ids := between(`"id":"`, `"`)
	for _, tc := range []struct{ query, want, why string }{
		{"limit=3", "c b a|a", "newest first, in pages"},
		{"app=quiz", "b a a", "by app"},
		{"app=quiz&capability=analytics&limit=1", "a|a", "by endpoint"},
		{"id=a", "a a", "by id"},
		{"outcome=timeout", "a", "by reason"},
		{"outcome=failed", "b a", "those that failed"},
		{"since=1h&until=2020-01-01", "", "of a time long ago"},
	} {
		if got := b.pages("/api/v1/attempts?"+tc.query, ids); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.why, got, tc.want)
		}
	}
	for _, query := range []string{"app=*", "capability=a.b", "since=soon", "until=soon", "limit=-1", "cursor=x"} {
		b.want(400, "bad_query", "GET", "/api/v1/attempts?"+query, "")
	}
}

func TestAlerts(t *testing.T) {
	b := start(t, admin.Config{})
	kv, err := b.js.KeyValue(t.Context(), streams.AlertsBucket)
	b.must(err)
	if a := b.want(200, "", "GET", "/api/v1/alerts", ""); strings.TrimSpace(a.body) != `{"items":[]}` {
		t.Errorf("no alerts: %s", a.body)
	}
	alert := streams.Alert{
		AlertKey: streams.AlertKey{Rule: streams.AlertSlow, App: "quiz", Capability: "analytics"},
		Since:    time.Now().UTC(), Value: 1700, Threshold: 1600, Message: "p95 is 1.7 s", Details: map[string]any{"attempts": 3},
	}
	_, err = streams.NewAlerts(kv).Raise(t.Context(), alert)
	b.must(err)
	if a := b.want(200, "", "GET", "/api/v1/alerts", ""); !strings.Contains(a.body, `"rule":"slow","app":"quiz"`) {
		t.Errorf("alerts: %s", a.body)
	}
}

func TestNotices(t *testing.T) {
	b := start(t, admin.Config{})
	for i := range 3 {
		b.notice(streams.NoticeBreakerOpened, fmt.Sprintf("opened-%d", i))
		b.notice(streams.NoticeBreakerClosed, fmt.Sprintf("closed-%d", i))
	}
	messages := between(`"message":"`, `"`)
	for _, tc := range []struct{ query, want, why string }{
		{"limit=4", "closed-2 opened-2 closed-1 opened-1|closed-0 opened-0", "newest first, in pages"},
		{"kind=breaker_opened&limit=2", "opened-2 opened-1|opened-0", "one kind"},
		{"app=shop", "", "of another app"},
	} {
		if got := b.pages("/api/v1/notices?"+tc.query, messages); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.why, got, tc.want)
		}
	}
	b.want(400, "bad_query", "GET", "/api/v1/notices?kind=*", "")
}

func TestAudit(t *testing.T) {
	b := start(t, admin.Config{})
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest)
	b.want(200, "", "POST", "/api/v1/breakers/quiz/analytics/open", `{"reason":"maintenance"}`, "X-Operator: ann")
	b.want(200, "", "POST", "/api/v1/breakers/quiz/analytics/reset", "", "X-Operator: bob")
	whats := between(`"what":"`, `"`)
	for _, tc := range []struct{ query, want, why string }{
		{"limit=2", "breaker_reset breaker_opened|app_applied", "newest first, in pages"},
		{"by=ann", "breaker_opened", "of one operator"},
		{"what=app_applied&since=1h", "app_applied", "one kind"},
		{"capability=email", "", "of another capability"},
	} {
		if got := b.pages("/api/v1/audit?"+tc.query, whats); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.why, got, tc.want)
		}
	}
	if a := b.want(200, "", "GET", "/api/v1/audit", ""); strings.Contains(a.body, "whsec_") || !strings.Contains(a.body, `"after":{"appId":"quiz"`) {
		t.Errorf("audit: %s", a.body)
	}
	b.want(400, "bad_query", "GET", "/api/v1/audit?what=a.b", "")
	b.want(400, "bad_query", "GET", "/api/v1/audit?since=soon", "")
}
