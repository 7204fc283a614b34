package admin_test

import (
	"slices"
	"strings"
	"testing"

	"backstop/cmd/backstop/admin"
)

// Every route is in the document, with its parameters and its role, and the
// document has no more.
func TestOpenAPIDescribesTheRoutes(t *testing.T) {
	s := document(t)
	described := 0
	for path, item := range s.paths {
		if !slices.Contains([]string{"/callbacks/{token}", "/healthz", "/readyz", "/metrics"}, path) { // see TestTheRestAnswers
			described += len(item)
		}
	}
	routes := admin.Routes()
	if len(routes) != described {
		t.Errorf("%d routes, %d operations in the document", len(routes), described)
	}
	for _, r := range routes {
		operation, ok := s.paths[r.Path][strings.ToLower(r.Method)].(map[string]any)
		if !ok {
			t.Errorf("%s %s is not in the document", r.Method, r.Path)
			continue
		}
		var inQuery, inPath []string
		parameters, _ := operation["parameters"].([]any)
		for _, p := range parameters {
			p := s.resolve(p.(map[string]any))
			switch p["in"] {
			case "query":
				inQuery = append(inQuery, p["name"].(string))
			case "path":
				inPath = append(inPath, p["name"].(string))
			}
		}
		want := slices.Clone(r.Query)
		slices.Sort(want)
		slices.Sort(inQuery)
		if !slices.Equal(inQuery, want) {
			t.Errorf("%s %s takes %v, the document says %v", r.Method, r.Path, want, inQuery)
		}
		if len(inPath) != strings.Count(r.Path, "{") {
			t.Errorf("%s %s: the document has the path parameters %v", r.Method, r.Path, inPath)
		}
		role, _ := operation["x-role"].(string)
		if role != r.Role.String() {
			t.Errorf("%s %s needs %q, the document says %q", r.Method, r.Path, r.Role, role)
		}
	}
}

// Every operation of the document is answered by its route, and by no catch-all.
func TestEveryOperationAnswers(t *testing.T) {
	b := start(t, admin.Config{})
	for _, r := range admin.Routes() {
		if strings.HasSuffix(r.Path, "/stream") {
			continue // never ends; see TestStream
		}
		path := strings.NewReplacer("{app}", "nobody", "{capability}", "analytics", "{id}", "none").Replace(r.Path)
		a := b.do(r.Method, path, "")
		if strings.Contains(a.body, "nothing here") || a.status == 405 || a.status == 500 {
			t.Errorf("%s %s = %d %s", r.Method, path, a.status, a.body)
		}
		if r.Method == "GET" {
			if head := b.do("HEAD", path, ""); head.status != a.status || head.body != "" {
				t.Errorf("HEAD %s = %d %q, GET has %d", path, head.status, head.body, a.status)
			}
		}
	}
}

func TestTheRestAnswers(t *testing.T) {
	b := start(t, admin.Config{})
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		b.want(200, "", "GET", path, "")
		if a := b.want(405, "method_not_allowed", "POST", path, ""); a.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s allows %q", path, a.header.Get("Allow"))
		}
	}
	b.want(503, "unavailable", "POST", "/callbacks/token", "{}")
	b.want(405, "method_not_allowed", "GET", "/callbacks/token", "")
	b.want(404, "not_found", "GET", "/nothing", "")
}

func TestOpenAPIIsServed(t *testing.T) {
	b := listen(t, admin.Config{})
	if a := b.want(200, "", "GET", "/api/v1/openapi.json", ""); a.body != string(admin.OpenAPI()) {
		t.Error("another document is served")
	}
}
