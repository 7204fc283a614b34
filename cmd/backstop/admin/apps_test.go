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
	b.want(404, "app_not_found", "GET", path, "")

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
	b.want(400, "bad_request", "PUT", path, quizManifest, "If-Match: 1")

	list := b.want(200, "", "GET", "/api/v1/apps", "")
	if !strings.Contains(list.body, `"events":["analytics"],"calls":["quizAnswer"]`) {
		t.Errorf("list: %s", list.body)
	}
	b.want(204, "", "DELETE", path, "", `If-Match: "2"`)
	b.want(404, "app_not_found", "DELETE", path, "")
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
		{"", 400, "bad_json", "", "nothing"},
		{"{", 400, "bad_json", "", "not JSON"},
		{`{"appId":"quiz","baseUrl":"https://a.example.com"}`, 422, "invalid_manifest", "/webhooks", "a field is missing"},
		{strings.Replace(quizManifest, `"path":"/a"`, `"path":"/a","retires":{}`, 1), 422, "invalid_manifest", "/webhooks/analytics/retires", "a field that is not known"},
		{strings.Replace(quizManifest, "https://quiz.example.com", "http://10.1.2.3", 1), 422, "invalid_manifest", "/baseUrl", "a private address"},
		{strings.Replace(quizManifest, `"quiz"`, `"shop"`, 1), 422, "invalid_manifest", "/appId", "another app's manifest"},
		{`"` + strings.Repeat("x", 256<<10) + `"`, 413, "too_large", "", "too large"},
	} {
		a := b.want(tc.status, tc.code, "PUT", path, tc.body)
		if tc.pointer != "" && !strings.Contains(a.body, `"pointer":"`+tc.pointer+`"`) {
			t.Errorf("%s: %s has no pointer %s", tc.why, a.body, tc.pointer)
		}
	}
	// An address that the pipeline allows is none.
	b.want(201, "", "PUT", path, strings.Replace(quizManifest, "https://quiz.example.com", "http://127.0.0.1:9000", 1))
	b.want(415, "unsupported_media_type", "PUT", path, quizManifest, "Content-Type: text/plain")
	b.want(404, "app_not_found", "PUT", "/api/v1/apps/a.b", quizManifest)
}

func TestRotateSecret(t *testing.T) {
	b := start(t, admin.Config{})
	const path = "/api/v1/apps/quiz/rotate-secret"
	b.want(404, "app_not_found", "POST", path, "")
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
	b.want(404, "endpoint_not_found", "POST", "/api/v1/breakers/quiz/report/open", "")
	b.want(404, "app_not_found", "POST", "/api/v1/breakers/nobody/report/open", "")
	b.want(422, "invalid_request", "POST", breaker+"/open", `{"reason":"`+strings.Repeat("x", 501)+`"}`)

	// One endpoint, then all of them; disabled is more than open.
	if a := b.want(200, "", "POST", "/api/v1/apps/quiz/endpoints/analytics/disable", `{"reason":"moves"}`); strings.Count(a.body, `"changed":true`) != 1 {
		t.Errorf("disabled one: %s", a.body)
	}
	b.want(409, "endpoint_disabled", "POST", breaker+"/open", "")
	b.want(409, "endpoint_disabled", "POST", breaker+"/reset", "")
	if a := b.want(200, "", "POST", "/api/v1/apps/quiz/disable", ""); strings.Count(a.body, `"changed":true`) != 1 || strings.Count(a.body, `"disabled"`) != 2 {
		t.Errorf("disabled all: %s", a.body)
	}
	if a := b.want(200, "", "POST", "/api/v1/apps/quiz/endpoints/analytics/enable", ""); !strings.Contains(a.body, `"enabled","changed":true`) {
		t.Errorf("enabled one: %s", a.body)
	}
	if a := b.want(200, "", "POST", "/api/v1/apps/quiz/enable", ""); strings.Count(a.body, `"changed":true`) != 1 {
		t.Errorf("enabled all: %s", a.body)
	}
	b.want(404, "endpoint_not_found", "POST", "/api/v1/apps/quiz/endpoints/report/enable", "")

	// All of it is on record, newest first, and in the notices.
	audit := b.want(200, "", "GET", "/api/v1/audit?app=quiz&capability=analytics&limit=2", "")
	if !strings.Contains(audit.body, `"what":"endpoint_enabled"`) || !strings.Contains(audit.body, `"nextCursor"`) || strings.Contains(audit.body, "breaker_opened") {
		t.Errorf("audit: %s", audit.body)
	}
	if a := b.want(200, "", "GET", "/api/v1/audit?what=breaker_opened&by=ann", ""); !strings.Contains(a.body, `"why":"maintenance"`) || !strings.Contains(a.body, `"via":"api"`) {
		t.Errorf("audit of the breaker: %s", a.body)
	}
	if a := b.want(200, "", "GET", "/api/v1/notices?kind=breaker_opened", ""); !strings.Contains(a.body, "ann opened the circuit") {
		t.Errorf("notices: %s", a.body)
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
