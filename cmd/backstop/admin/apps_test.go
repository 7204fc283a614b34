package admin_test

import (
	"strings"
	"testing"

	"backstop/cmd/backstop/admin"
	"backstop/streams"
	"backstop/streams/secrets"
)

func TestApps(t *testing.T) {
	b := start(t, admin.Config{})
	const path = "/api/v1/apps/quiz"

	if a := b.want(200, "", "GET", "/api/v1/apps", ""); strings.TrimSpace(a.body) != `{"items":[]}` {
		t.Errorf("no apps: %s", a.body)
	}
	b.want(404, "not_found", "GET", path, "")

	// A new app, with the secret this once.
	added := b.want(201, "", "PUT", path, quizManifest, "If-None-Match: *")
	var applied struct {
		Secret   string
		Created  bool
		Revision uint64
	}
	added.decode(t, &applied)
	if secrets.Check(applied.Secret) != nil || !applied.Created || added.header.Get("ETag") != `"1"` || added.header.Get("Location") != path {
		t.Errorf("added: %v %s", added.header, added.body)
	}

	// What GET answers can be put again.
	got := b.want(200, "", "GET", path, "")
	if got.header.Get("ETag") != `"1"` {
		t.Errorf("ETag %s", got.header.Get("ETag"))
	}
	b.want(304, "", "GET", path, "", `If-None-Match: "1"`)
	again := b.want(200, "", "PUT", path, got.body, `If-Match: "1"`)
	if strings.Contains(again.body, "whsec_") || again.header.Get("ETag") != `"1"` {
		t.Errorf("the same again: %s", again.body)
	}

	// Of two who change the same revision, one is told.
	changed := strings.Replace(quizManifest, `"/a"`, `"/b"`, 1)
	if a := b.want(200, "", "PUT", path, changed, `If-Match: "1"`); a.header.Get("ETag") != `"2"` {
		t.Errorf("changed: %v", a.header)
	}
	b.want(412, "revision_conflict", "PUT", path, quizManifest, `If-Match: "1"`)
	b.want(412, "revision_conflict", "PUT", path, quizManifest, "If-None-Match: *")
	b.want(412, "revision_conflict", "DELETE", path, "", `If-Match: "1"`)
	b.want(412, "revision_conflict", "PUT", "/api/v1/apps/other", strings.Replace(quizManifest, `"quiz"`, `"other"`, 1), "If-Match: *")
	b.want(400, "invalid_request", "PUT", path, quizManifest, "If-Match: 1")

	list := b.want(200, "", "GET", "/api/v1/apps", "")
	if !strings.Contains(list.body, `"events":["analytics"],"calls":["quizAnswer"]`) {
		t.Errorf("list: %s", list.body)
	}
	b.want(204, "", "DELETE", path, "", `If-Match: "2"`)
	b.want(204, "", "DELETE", path, "") // gone is gone
	b.want(204, "", "DELETE", "/api/v1/apps/never-there", "")
	b.want(412, "revision_conflict", "DELETE", path, "", "If-Match: *")
	b.want(404, "not_found", "GET", path, "")
}

func TestAppsInPages(t *testing.T) {
	b := start(t, admin.Config{})
	for _, app := range []string{"c", "a", "b"} {
		b.want(201, "", "PUT", "/api/v1/apps/"+app, strings.Replace(quizManifest, `"quiz"`, `"`+app+`"`, 1))
	}
	var first, second struct {
		Items      []struct{ AppID string }
		NextCursor string
	}
	b.want(200, "", "GET", "/api/v1/apps?limit=2", "").decode(t, &first)
	b.want(200, "", "GET", "/api/v1/apps?limit=2&cursor="+first.NextCursor, "").decode(t, &second)
	if len(first.Items) != 2 || first.Items[1].AppID != "b" || len(second.Items) != 1 || second.Items[0].AppID != "c" || second.NextCursor != "" {
		t.Errorf("pages %+v, %+v", first, second)
	}
	b.want(400, "bad_query", "GET", "/api/v1/apps?cursor=!", "")
}

func TestManifestMistakes(t *testing.T) {
	b := start(t, admin.Config{})
	const path = "/api/v1/apps/quiz"
	for _, tc := range []struct {
		body    string
		status  int
		code    string
		pointer string
		why     string
	}{
		{"", 422, "invalid_manifest", "", "nothing"},
		{"{", 400, "bad_payload", "", "not JSON"},
		{`{"appId":"quiz","baseUrl":"https://a.example.com"}`, 422, "invalid_manifest", "/webhooks", "a field is missing"},
		{strings.Replace(quizManifest, `"path":"/a"`, `"path":"/a","retires":{}`, 1), 422, "invalid_manifest", "/webhooks/analytics/retires", "a field that is not known"},
		{strings.Replace(quizManifest, "https://quiz.example.com", "http://10.1.2.3", 1), 422, "invalid_manifest", "/baseUrl", "a private address"},
		{strings.Replace(quizManifest, `"quiz"`, `"shop"`, 1), 422, "invalid_manifest", "/appId", "another app's manifest"},
		{`"` + strings.Repeat("x", 256<<10) + `"`, 413, "payload_too_large", "", "too large"},
	} {
		a := b.want(tc.status, tc.code, "PUT", path, tc.body)
		if tc.pointer != "" && !strings.Contains(a.body, `"pointer":"`+tc.pointer+`"`) {
			t.Errorf("%s: %s has no pointer %s", tc.why, a.body, tc.pointer)
		}
	}
	// An address that the pipeline allows is none.
	b.want(201, "", "PUT", path, strings.Replace(quizManifest, "https://quiz.example.com", "http://127.0.0.1:9000", 1))
	b.want(415, "unsupported_content_type", "PUT", path, quizManifest, "Content-Type: text/plain")
	b.want(404, "not_found", "PUT", "/api/v1/apps/a.b", quizManifest)
}

func TestRotateSecret(t *testing.T) {
	b := start(t, admin.Config{})
	const path = "/api/v1/apps/quiz/rotate-secret"
	b.want(404, "not_found", "POST", path, "")
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest)
	first := b.want(200, "", "POST", path, "")
	second := b.want(200, "", "POST", path, `{"graceMs":0}`)
	if first.body == second.body || !strings.Contains(second.body, "whsec_") {
		t.Errorf("rotated to %s and %s", first.body, second.body)
	}
	b.want(422, "invalid_request", "POST", path, `{"graceMs":-1}`)
	b.want(422, "invalid_request", "POST", path, `{"graceMs":"1h"}`)
	b.want(422, "invalid_request", "POST", path, `{"grace":1}`)
}

func TestSwitchesAndBreakers(t *testing.T) {
	b := start(t, admin.Config{})
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest)
	const breaker = "/api/v1/breakers/quiz/analytics"

	opened := b.want(200, "", "POST", breaker+"/open", `{"reason":"maintenance"}`, "X-Operator: ann")
	if !strings.Contains(opened.body, `"forced-open","changed":true`) {
		t.Errorf("opened: %s", opened.body)
	}
	if a := b.want(200, "", "GET", "/api/v1/breakers?app=quiz", ""); !strings.Contains(a.body, `"by":"ann"`) || !strings.Contains(a.body, "maintenance") {
		t.Errorf("breakers: %s", a.body)
	}
	if a := b.want(200, "", "GET", "/api/v1/breakers?capability=email", ""); strings.TrimSpace(a.body) != `{"items":[]}` {
		t.Errorf("breakers of email: %s", a.body)
	}
	if a := b.want(200, "", "POST", breaker+"/reset", ""); !strings.Contains(a.body, `"closed","changed":true`) {
		t.Errorf("reset: %s", a.body)
	}
	if a := b.want(200, "", "POST", breaker+"/reset", ""); !strings.Contains(a.body, `"changed":false`) {
		t.Errorf("reset again: %s", a.body)
	}
	b.want(404, "not_found", "POST", "/api/v1/breakers/quiz/report/open", "")
	b.want(404, "not_found", "POST", "/api/v1/breakers/nobody/report/open", "")
	b.want(422, "invalid_request", "POST", breaker+"/open", `{"reason":"`+strings.Repeat("x", 501)+`"}`)

	// One endpoint, then all of them; disabled is more than open.
	if a := b.want(200, "", "POST", "/api/v1/apps/quiz/disable?capability=analytics", `{"reason":"moves"}`); strings.Count(a.body, `"changed":true`) != 1 {
		t.Errorf("disabled one: %s", a.body)
	}
	b.want(409, "endpoint_disabled", "POST", breaker+"/open", "")
	b.want(409, "endpoint_disabled", "POST", breaker+"/reset", "")
	if a := b.want(200, "", "POST", "/api/v1/apps/quiz/disable", ""); strings.Count(a.body, `"changed":true`) != 1 || strings.Count(a.body, `"disabled"`) != 2 {
		t.Errorf("disabled all: %s", a.body)
	}
	if a := b.want(200, "", "POST", "/api/v1/apps/quiz/enable?capability=analytics", ""); !strings.Contains(a.body, `"enabled","changed":true`) {
		t.Errorf("enabled one: %s", a.body)
	}
	if a := b.want(200, "", "POST", "/api/v1/apps/quiz/enable", ""); strings.Count(a.body, `"changed":true`) != 1 {
		t.Errorf("enabled all: %s", a.body)
	}
	b.want(404, "not_found", "POST", "/api/v1/apps/quiz/enable?capability=report", "")

	// All of it is on record.
	audit := b.recorded()
	for _, want := range []string{`"by":"ann","via":"api","what":"breaker_opened","app":"quiz","capability":"analytics","why":"maintenance"`, `"what":"endpoint_enabled"`} {
		if !strings.Contains(audit, want) {
			t.Errorf("audit without %s: %s", want, audit)
		}
	}
}

// What is changed by the API is what the pipeline reads.
func TestGateIsTheOneInTheBucket(t *testing.T) {
	b := start(t, admin.Config{})
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest)
	b.want(200, "", "POST", "/api/v1/breakers/quiz/analytics/open", "")
	kv, err := b.js.KeyValue(t.Context(), streams.BreakersBucket)
	b.must(err)
	gate, found, err := streams.NewGates(kv).Get(t.Context(), streams.EndpointID{App: "quiz", Capability: "analytics"})
	if err != nil || !found || gate.State != streams.GateForced || gate.By != "loopback" {
		t.Errorf("gate %+v %v %v", gate, found, err)
	}
}
