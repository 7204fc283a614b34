package admin_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"backstop/cmd/backstop/admin"
	"backstop/streams"
)

type letterPage struct {
	Items []struct {
		ID       string
		Sequence uint64
		Size     int
	}
	NextCursor string
}

func (p letterPage) ids() string {
	var ids []string
	for _, d := range p.Items {
		ids = append(ids, d.ID)
	}
	return strings.Join(ids, " ")
}

func TestGroupDeadLetters(t *testing.T) {
	b := start(t, admin.Config{})
	for i := range 3 {
		b.letter(fmt.Sprintf("e%d", i), "analytics", streams.Exhausted, `{"n":1}`)
	}
	b.letter("other", "email", streams.NoRoute, `{}`)
	for _, tc := range []struct{ query, want, why string }{
		{"", "3 analytics exhausted e2|1 email no_route other", "all, the largest first"},
		{"?capability=email", "1 email no_route other", "by capability"},
		{"?reason=exhausted&app=quiz", "3 analytics exhausted e2", "by reason"},
		{"?until=1h", "", "none is as old"},
	} {
		var p struct {
			Items []struct {
				Fingerprint, Capability, Reason, Example string
				Count                                    int
			}
		}
		b.want(200, "", "GET", "/api/v1/dlq-groups"+tc.query, "").decode(t, &p)
		var got []string
		for _, g := range p.Items {
			got = append(got, fmt.Sprintf("%d %s %s %s", g.Count, g.Capability, g.Reason, g.Example))
			if len(g.Fingerprint) != 8 {
				t.Errorf("%s: fingerprint %q", tc.why, g.Fingerprint)
			}
		}
		if all := strings.Join(got, "|"); all != tc.want {
			t.Errorf("%s: got %q, want %q", tc.why, all, tc.want)
		}
	}
	b.want(400, "bad_query", "GET", "/api/v1/dlq-groups?since=soon", "")
}

func TestListDeadLetters(t *testing.T) {
	b := start(t, admin.Config{})
	for i := range 7 {
		b.letter(fmt.Sprintf("e%d", i), "analytics", streams.Exhausted, `{"n":1}`)
	}
	b.letter("other", "email", streams.NoRoute, `{}`)
	for _, tc := range []struct{ query, want, why string }{
		{"", "e0 e1 e2 e3 e4 e5 e6 other", "all, oldest first"},
		{"?capability=email", "other", "by capability"},
		{"?reason=no_route&app=quiz", "other", "by reason"},
		{"?until=1h", "", "none is as old"},
		{"?since=1h&limit=2", "e0 e1", "the first of many"},
		{"?app=nobody", "", "of nobody"},
	} {
		var p letterPage
		b.want(200, "", "GET", "/api/v1/dlq"+tc.query, "").decode(t, &p)
		if p.ids() != tc.want {
			t.Errorf("%s: got %q, want %q", tc.why, p.ids(), tc.want)
		}
	}
	ids := between(`"id":"`, `"`)
	for order, want := range map[string]string{"oldest": "e0 e1 e2|e3 e4 e5|e6 other", "newest": "other e6 e5|e4 e3 e2|e1 e0"} {
		if got := b.pages("/api/v1/dlq?limit=3&order="+order, ids); got != want {
			t.Errorf("%s first: got %q, want %q", order, got, want)
		}
	}
	if got := b.pages("/api/v1/dlq?limit=1&order=newest&capability=analytics", ids); got != "e6|e5|e4|e3|e2|e1|e0" {
		t.Errorf("one by one: %q", got)
	}
	var p letterPage
	b.want(200, "", "GET", "/api/v1/dlq?limit=1", "").decode(t, &p)
	if p.Items[0].Size != 7 {
		t.Errorf("size %d of a payload of 7 bytes", p.Items[0].Size)
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "cursor=!", "cursor=MA", "reason=bored", "order=random", "since=tomorrow", "app=*", "app=a&app=b", "apps=quiz"} {
		b.want(400, "bad_query", "GET", "/api/v1/dlq?"+query, "")
	}
}

func TestGetDeadLetter(t *testing.T) {
	b := start(t, admin.Config{})
	b.letter("e1", "analytics", streams.Exhausted, `{"html":"<script>alert(1)</script>"}`)
	b.letter("e1", "email", streams.BadPayload, "not \x00 json")
	b.letter("e2", "email", streams.Expired, `{}`)

	var d struct {
		ID, App, Capability, Reason string
		Payload                     map[string]string
		PayloadBase64               string
	}
	a := b.want(200, "", "GET", "/api/v1/dlq/e1?capability=analytics", "")
	a.decode(t, &d)
	if d.ID != "e1" || d.Reason != "exhausted" || d.Payload["html"] != "<script>alert(1)</script>" || strings.Contains(a.body, "<script>") {
		t.Errorf("e1 of analytics: %s", a.body)
	}
	b.want(200, "", "GET", "/api/v1/dlq/e1?capability=email&app=quiz", "").decode(t, &d)
	if d.PayloadBase64 != "bm90IAAganNvbg==" {
		t.Errorf("e1 of email: %+v", d)
	}
	b.want(200, "", "GET", "/api/v1/dlq/e2", "")
	b.want(409, "ambiguous", "GET", "/api/v1/dlq/e1", "")
	b.want(404, "not_found", "GET", "/api/v1/dlq/none", "")
	b.want(404, "not_found", "GET", "/api/v1/dlq/e2?app=nobody", "")
}

func TestReplay(t *testing.T) {
	b := start(t, admin.Config{})
	const path = "/api/v1/dlq/replay"
	for _, id := range []string{"e1", "e2", "e3"} {
		b.letter(id, "analytics", streams.Exhausted, `{}`)
	}
	b.letter("lost", "gone", streams.NoRoute, `{}`)

	dry := b.want(200, "", "POST", path, `{"app":"quiz","dryRun":true,"rate":2}`)
	if !strings.Contains(dry.body, `"matched":4`) || !strings.Contains(dry.body, `"dryRun":true`) || !strings.Contains(dry.body, `"estimatedMs":2000`) || !strings.Contains(dry.body, `"done":0`) {
		t.Errorf("dry run: %s", dry.body)
	}
	if a := b.want(200, "", "POST", path, `{"ids":["e1","nope"],"why":"the app is back"}`); !strings.Contains(a.body, `"done":1`) || !strings.Contains(a.body, `"missing":["nope"]`) {
		t.Errorf("one by id: %s", a.body)
	}
	// The second operator is told.
	b.want(404, "not_found", "POST", path, `{"ids":["e1"]}`)
	// A capability without a stream fails, and the others go on.
	mixed := b.want(200, "", "POST", path, `{"all":true}`)
	if !strings.Contains(mixed.body, `"done":2`) || !strings.Contains(mixed.body, `"failed":1`) || !strings.Contains(mixed.body, `"no_stream"`) {
		t.Errorf("mixed: %s", mixed.body)
	}
	b.want(409, "no_stream", "POST", path, `{"ids":["lost"]}`)

	stream, err := b.js.Stream(t.Context(), streams.EventStream("analytics"))
	b.must(err)
	if n := stream.CachedInfo().State.Msgs; n != 3 {
		t.Errorf("%d events were published, want 3", n)
	}
	if audit := b.recorded(); strings.Count(audit, `"dead_letters_replayed"`) != 5 || !strings.Contains(audit, `"why":"the app is back"`) {
		t.Errorf("audit: %s", audit)
	}
	for _, body := range []string{
		`{}`, ``, `{"all":true,"app":"quiz"}`, `{"app":"quiz","rate":-1}`, `{"app":"quiz","rate":0.01}`, `{"apps":"quiz"}`,
		`{"reason":"bored"}`, `{"since":"soon"}`, `{"all":true,"cursor":"x"}`, `[]`,
	} {
		b.want(422, "invalid_request", "POST", path, body)
	}
	b.want(400, "bad_payload", "POST", path, `{"app":`)
	b.want(400, "bad_payload", "POST", path, `{"all":true}{"all":true}`)
	b.want(413, "payload_too_large", "POST", path, `{"why":"`+strings.Repeat("x", admin.MaxBody)+`"}`)
}

// The cursor of a dry run selects what it has counted, and nothing that failed
// since.
func TestReplayWhatWasCounted(t *testing.T) {
	b := start(t, admin.Config{})
	b.letter("e1", "analytics", streams.Exhausted, `{}`)
	b.letter("e2", "analytics", streams.Exhausted, `{}`)
	var counted, replayed struct {
		Matched, Done, Left int
		Cursor              string
	}
	b.want(200, "", "POST", "/api/v1/dlq/replay", `{"all":true,"dryRun":true}`).decode(t, &counted)
	b.letter("e3", "analytics", streams.Exhausted, `{}`)
	b.want(200, "", "POST", "/api/v1/dlq/replay", `{"all":true,"cursor":"`+counted.Cursor+`"}`).decode(t, &replayed)
	if counted.Left != 2 || replayed.Matched != 2 || replayed.Done != 2 || replayed.Left != 0 || replayed.Cursor != "" {
		t.Errorf("counted %+v, replayed %+v", counted, replayed)
	}
}

// One request works for a bounded time, and the next goes on behind it.
func TestReplayGoesOn(t *testing.T) {
	admin.SetDecideFor(t, time.Nanosecond)
	b := start(t, admin.Config{})
	for i := range 5 {
		b.letter(fmt.Sprintf("e%d", i), "analytics", streams.Exhausted, `{}`)
	}
	done, cursor := 0, ""
	for range 10 {
		var part struct {
			Done, Left int
			Cursor     string
		}
		b.want(200, "", "POST", "/api/v1/dlq/replay", `{"all":true,"cursor":"`+cursor+`"}`).decode(t, &part)
		done += part.Done
		if cursor = part.Cursor; part.Left == 0 {
			break
		}
	}
	if done != 5 {
		t.Errorf("replayed %d of 5", done)
	}
}

func TestDiscard(t *testing.T) {
	b := start(t, admin.Config{})
	b.letter("e1", "analytics", streams.BadPayload, `{}`)
	b.letter("e2", "analytics", streams.Exhausted, `{}`)
	if a := b.want(200, "", "POST", "/api/v1/dlq/discard", `{"reason":"bad_payload","why":"test data"}`, "X-Operator: bob"); !strings.Contains(a.body, `"done":1`) {
		t.Errorf("discarded: %s", a.body)
	}
	if audit := b.recorded(); !strings.Contains(audit, `"by":"bob","via":"api","what":"dead_letters_discarded","why":"test data"`) {
		t.Errorf("audit: %s", audit)
	}
	var p letterPage
	b.want(200, "", "GET", "/api/v1/dlq", "").decode(t, &p)
	if p.ids() != "e2" {
		t.Errorf("left: %s", p.ids())
	}
}
