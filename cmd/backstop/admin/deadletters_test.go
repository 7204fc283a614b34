package admin_test

import (
	"fmt"
	"strings"
	"testing"

	"backstop/cmd/backstop/admin"
	"backstop/streams"
)

type letterPage struct {
	Items []struct {
		ID         string
		Capability string
		Sequence   uint64
		Size       int
		Payload    any
		Headers    map[string]string

		PayloadBase64 string `json:"payloadBase64"`
	}
	NextCursor string `json:"nextCursor"`
}

func (p letterPage) ids() string {
	var ids []string
	for _, d := range p.Items {
		ids = append(ids, d.ID)
	}
	return strings.Join(ids, " ")
}

func TestListDeadLetters(t *testing.T) {
	b := start(t, admin.Config{})
	for i := range 7 {
		b.letter(fmt.Sprintf("e%d", i), "analytics", streams.Exhausted, `{"n":1}`)
	}
	b.letter("other", "email", streams.NoRoute, `{}`)
	for _, tc := range []struct{ query, want, why string }{
		{"", "e0 e1 e2 e3 e4 e5 e6 other", "all, oldest first"},
		{"?order=newest&limit=3", "other e6 e5", "newest first"},
		{"?capability=email", "other", "by capability"},
		{"?reason=no_route&app=quiz", "other", "by reason"},
		{"?id=e3", "e3", "by event"},
		{"?since=1h&until=0s", "", "none that is younger than now"},
		{"?app=nobody", "", "of nobody"},
	} {
		if tc.why == "none that is younger than now" {
			tc.query = "?until=1h"
		}
		var p letterPage
		b.want(200, "", "GET", "/api/v1/dlq"+tc.query, "").decode(t, &p)
		if p.ids() != tc.want {
			t.Errorf("%s: got %q, want %q", tc.why, p.ids(), tc.want)
		}
	}
	// Every page but the last has a cursor, in either order.
	for order, want := range map[string]string{"oldest": "e0 e1 e2 e3 e4 e5 e6 other", "newest": "other e6 e5 e4 e3 e2 e1 e0"} {
		var all []string
		cursor := ""
		for range 4 {
			var p letterPage
			b.want(200, "", "GET", "/api/v1/dlq?limit=2&order="+order+cursor, "").decode(t, &p)
			all = append(all, p.ids())
			cursor = "&cursor=" + p.NextCursor
			if p.NextCursor == "" {
				break
			}
		}
		if got := strings.Join(all, " "); got != want || cursor != "&cursor=" {
			t.Errorf("%s: got %q and %q, want %q", order, got, cursor, want)
		}
	}
	var p letterPage
	b.want(200, "", "GET", "/api/v1/dlq?limit=1", "").decode(t, &p)
	if p.Items[0].Size != 7 {
		t.Errorf("size %d of a payload of 7 bytes", p.Items[0].Size)
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "cursor=x", "cursor=0", "order=random", "reason=bored", "since=tomorrow", "app=*", "app=a&app=b"} {
		b.want(400, "bad_parameter", "GET", "/api/v1/dlq?"+query, "")
	}
	if a := b.want(400, "unknown_parameter", "GET", "/api/v1/dlq?apps=quiz", ""); !strings.Contains(a.body, `\"apps\"`) {
		t.Errorf("an unknown parameter isn't named: %s", a.body)
	}
}

func TestGetDeadLetters(t *testing.T) {
	b := start(t, admin.Config{})
	b.letter("e1", "analytics", streams.Exhausted, `{"html":"<script>alert(1)</script>"}`)
	b.letter("e1", "email", streams.BadPayload, "not \x00 json")
	b.letter("e2", "email", streams.Expired, `{}`)

	var p letterPage
	a := b.want(200, "", "GET", "/api/v1/dlq/e1", "")
	a.decode(t, &p)
	if p.ids() != "e1 e1" || p.Items[0].Headers[streams.HeaderReason] != "exhausted" || p.Items[1].PayloadBase64 != "bm90IAAganNvbg==" {
		t.Errorf("both of e1: %s", a.body)
	}
	if strings.Contains(a.body, "<script>") {
		t.Errorf("a tag in an answer: %s", a.body)
	}
	b.want(200, "", "GET", "/api/v1/dlq/e1?capability=email", "").decode(t, &p)
	if p.ids() != "e1" {
		t.Errorf("of email: %q", p.ids())
	}
	b.want(404, "dead_letter_not_found", "GET", "/api/v1/dlq/none", "")
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
	b.want(404, "dead_letter_not_found", "POST", path, `{"ids":["e1"]}`)
	b.want(409, "dead_letter_gone", "POST", path, `{"sequences":[1]}`)
	// A capability without a stream fails, and the others go on.
	mixed := b.want(200, "", "POST", path, `{"all":true}`)
	if !strings.Contains(mixed.body, `"done":2`) || !strings.Contains(mixed.body, `"failed":1`) || !strings.Contains(mixed.body, `"no_stream"`) {
		t.Errorf("mixed: %s", mixed.body)
	}
	b.want(409, "no_stream", "POST", path, `{"sequences":[4]}`)

	stream, err := b.js.Stream(t.Context(), streams.EventStream("analytics"))
	b.must(err)
	if n := stream.CachedInfo().State.Msgs; n != 3 {
		t.Errorf("%d events were published, want 3", n)
	}
	if a := b.want(200, "", "GET", "/api/v1/audit?what=dead_letters_replayed", ""); !strings.Contains(a.body, `"id":"nope"`) && !strings.Contains(a.body, "the app is back") {
		t.Errorf("audit: %s", a.body)
	}
	for _, body := range []string{`{}`, ``, `{"all":true,"app":"quiz"}`, `{"app":"quiz","rate":-1}`, `{"app":"quiz","rate":0.01}`, `{"apps":"quiz"}`} {
		b.want(422, "invalid_request", "POST", path, body)
	}
	b.want(400, "bad_parameter", "POST", path, `{"reason":"bored"}`)
	b.want(400, "bad_json", "POST", path, `{"app":`)
	b.want(400, "bad_json", "POST", path, `{"all":true}{"all":true}`)
	b.want(413, "too_large", "POST", path, `{"why":"`+strings.Repeat("x", admin.MaxBody)+`"}`)
}

// A request decides about a part, and its answer goes on behind that.
func TestReplayGoesOn(t *testing.T) {
	b := start(t, admin.Config{})
	for i := range 4 {
		b.letter(fmt.Sprintf("e%d", i), "analytics", streams.Exhausted, `{}`)
	}
	var first, second struct {
		Done, Left, Matched            int
		AfterSequence, ThroughSequence uint64
	}
	// 0.1 a second makes two of 20 s; a quick one is enough here.
	b.want(200, "", "POST", "/api/v1/dlq/replay", `{"all":true,"throughSequence":2}`).decode(t, &first)
	if first.Done != 2 || first.Left != 0 || first.ThroughSequence != 2 {
		t.Errorf("first: %+v", first)
	}
	b.want(200, "", "POST", "/api/v1/dlq/replay", `{"all":true,"afterSequence":3}`).decode(t, &second)
	if second.Done != 1 || second.ThroughSequence != 4 {
		t.Errorf("second: %+v", second)
	}
}

func TestDiscard(t *testing.T) {
	b := start(t, admin.Config{})
	b.letter("e1", "analytics", streams.BadPayload, `{}`)
	b.letter("e2", "analytics", streams.Exhausted, `{}`)
	if a := b.want(200, "", "POST", "/api/v1/dlq/discard", `{"reason":"bad_payload","why":"test data"}`, "X-Operator: bob"); !strings.Contains(a.body, `"done":1`) {
		t.Errorf("discarded: %s", a.body)
	}
	if a := b.want(200, "", "GET", "/api/v1/notices?kind=discarded", ""); !strings.Contains(a.body, "bob discarded the dead letter of event e1") {
		t.Errorf("notices: %s", a.body)
	}
	if a := b.want(200, "", "GET", "/api/v1/audit", ""); !strings.Contains(a.body, `"dead_letters_discarded"`) || !strings.Contains(a.body, `"why":"test data"`) || !strings.Contains(a.body, `"by":"bob"`) {
		t.Errorf("audit: %s", a.body)
	}
	var p letterPage
	b.want(200, "", "GET", "/api/v1/dlq", "").decode(t, &p)
	if p.ids() != "e2" {
		t.Errorf("left: %s", p.ids())
	}
}
