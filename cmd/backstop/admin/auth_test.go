package admin_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"backstop/cmd/backstop/admin"
)

// The tokens of the tests, one for each role.
const (
	adminToken   = "admin-token-0123456789"
	operateToken = "operate-token-0123456789"
	readToken    = "read-token-0123456789"
)

func withTokens() admin.Config {
	return admin.Config{Token: adminToken, Tokens: []admin.Token{
		{Name: "ann", Role: admin.RoleOperate, Hash: admin.HashToken(operateToken)},
		{Name: "grafana", Role: admin.RoleRead, Hash: admin.HashToken(readToken)},
	}}
}

// Every route with every role: allowed from the route's role on, forbidden
// below it, unknown without.
func TestRoles(t *testing.T) {
	b := start(t, withTokens())
	tokens := map[admin.Role]string{admin.RoleRead: readToken, admin.RoleOperate: operateToken, admin.RoleAdmin: adminToken}
	for _, r := range admin.Routes() {
		if r.Role == 0 || strings.HasSuffix(r.Path, "/stream") && r.Role != admin.RoleRead {
			continue
		}
		path := strings.NewReplacer("{app}", "nobody", "{capability}", "analytics", "{id}", "none").Replace(r.Path)
		method := r.Method
		if strings.HasSuffix(path, "/stream") {
			method = http.MethodHead
		}
		for _, header := range []string{"", "Bearer", "Bearer ", "Basic " + adminToken, adminToken} {
			a := b.do(method, path, "", "Authorization: "+header)
			if a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s with %q = %d", method, path, header, a.status)
			}
		}
		for role, token := range tokens {
			a := b.do(method, path, "", "Authorization: Bearer "+token)
			if forbidden := a.status == 403; forbidden != (role < r.Role) || a.status == 401 {
				t.Errorf("%s %s as %s = %d %s, it needs %s", method, path, role, a.status, a.code(), r.Role)
			}
		}
	}
	for _, tc := range []struct {
		token string
		want  int
	}{{readToken, 200}, {"wrong-token-0123456789", 401}} {
		if a := b.do("GET", "/metrics", "", "Authorization: Bearer "+tc.token); a.status != tc.want {
			t.Errorf("/metrics with %s = %d", tc.token, a.status)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		b.want(200, "", "GET", path, "", "Host: 10.0.0.7:8080")
	}
}

// The name of the token goes on record, whatever the client says it is.
func TestTokenNamesTheOperator(t *testing.T) {
	b := start(t, withTokens())
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest, "Authorization: Bearer "+adminToken)
	b.want(200, "", "POST", "/api/v1/breakers/quiz/analytics/open", "", "Authorization: bearer "+operateToken, "X-Operator: admin")
	if audit := b.recorded(); !strings.Contains(audit, `"by":"ann","via":"api","what":"breaker_opened"`) {
		t.Errorf("audit: %s", audit)
	}
}

// Pages elsewhere make a browser ask us: by a name of theirs that points here,
// by a form, by a script.
func TestOtherSites(t *testing.T) {
	b := start(t, admin.Config{PublicURL: "https://backstop.example.com", Hosts: []string{"ops.internal"}})
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest)
	const list, reset = "/api/v1/apps", "/api/v1/breakers/quiz/analytics/reset"
	for _, tc := range []struct {
		method, path string
		headers      []string
		status       int
		code, why    string
	}{
		{"GET", list, []string{"Host: localhost:8080"}, 200, "", "loopback by name"},
		{"GET", list, []string{"Host: [::1]:8080"}, 200, "", "loopback of IPv6"},
		{"GET", list, []string{"Host: BACKSTOP.example.com"}, 200, "", "the public name"},
		{"GET", list, []string{"Host: ops.internal:8080"}, 200, "", "a name that is listed"},
		{"GET", list, []string{"Host: evil.example.com"}, 403, "host_not_allowed", "DNS rebinding"},
		{"GET", list, []string{"Host: localhost.evil.example.com"}, 403, "host_not_allowed", "a name that begins like ours"},
		{"GET", list, []string{"Host: 192.168.1.1"}, 403, "host_not_allowed", "an address that is not ours"},
		{"POST", reset, []string{"Host: evil.example.com", "Origin: http://evil.example.com", "Sec-Fetch-Site: same-origin"}, 403, "host_not_allowed", "rebinding looks like the same origin"},
		{"GET", "/metrics", []string{"Host: evil.example.com"}, 403, "host_not_allowed", "metrics as well"},
		{"POST", reset, []string{"Sec-Fetch-Site: cross-site"}, 403, "cross_origin", "a form elsewhere"},
		{"POST", reset, []string{"Sec-Fetch-Site: same-site"}, 403, "cross_origin", "another port of this machine"},
		{"POST", reset, []string{"Origin: https://evil.example.com"}, 403, "cross_origin", "an old browser"},
		{"POST", reset, []string{"Origin: null"}, 403, "cross_origin", "a sandboxed frame"},
		{"POST", reset, []string{"Sec-Fetch-Site: same-origin"}, 200, "", "our own page"},
		{"POST", reset, nil, 200, "", "no browser"},
		{"GET", list, []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"}, 403, "cross_origin", "a script or an image elsewhere"},
		{"GET", list, []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"}, 200, "", "a link"},
		{"GET", list, []string{"X-Forwarded-For: 203.0.113.7"}, 401, "unauthorized", "through a proxy on this machine"},
		{"POST", "/login", []string{"Origin: https://evil.example.com"}, 403, "cross_origin", "logging somebody in as another"},
	} {
		a := b.want(tc.status, tc.code, tc.method, tc.path, "", tc.headers...)
		if a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: others are let in", tc.why)
		}
	}
	b.want(400, "invalid_request", "GET", list, "", "X-Operator: "+strings.Repeat("x", 65))
}

// A token in a header proves that the sender knows it: no name can be wrong.
func TestTokenFromAnyHost(t *testing.T) {
	b := start(t, withTokens())
	b.want(200, "", "GET", "/api/v1/apps", "", "Host: backstop-1:8080", "Authorization: Bearer "+readToken)
	b.want(403, "host_not_allowed", "GET", "/api/v1/apps", "", "Host: backstop-1:8080")
}

func TestSession(t *testing.T) {
	b := start(t, withTokens())
	a := b.want(200, "", "POST", "/login", `{"token":"`+operateToken+`"}`)
	cookie := a.header.Get("Set-Cookie")
	if !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") || strings.Contains(cookie, "Secure") || strings.Contains(cookie, operateToken) {
		t.Errorf("cookie %s", cookie)
	}
	pair, _, _ := strings.Cut(cookie, ";")
	session := "Cookie: " + pair
	b.want(200, "", "GET", "/api/v1/apps", "", session)
	b.want(403, "forbidden", "DELETE", "/api/v1/apps/quiz", "", session)
	// A cookie goes along unasked; the page must be ours.
	b.want(403, "host_not_allowed", "GET", "/api/v1/apps", "", session, "Host: evil.example.com")
	b.want(403, "cross_origin", "POST", "/api/v1/apps/quiz/enable", "", session, "Sec-Fetch-Site: cross-site")
	// A wrong token isn't saved by a session.
	b.want(401, "unauthorized", "GET", "/api/v1/apps", "", session, "Authorization: Bearer nonsense")

	name, value, _ := strings.Cut(pair, "=")
	parts := strings.Split(value, ".")
	for why, forged := range map[string]string{
		"another name":      "YWRtaW4." + parts[1] + "." + parts[2], // admin
		"a later end":       parts[0] + ".99999999999." + parts[2],
		"another signature": parts[0] + "." + parts[1] + ".AAAA",
		"no signature":      parts[0] + "." + parts[1] + ".",
		"nonsense":          "x",
		"nobody's":          "eA." + parts[1] + "." + parts[2],
	} {
		if a := b.do("GET", "/api/v1/apps", "", "Cookie: "+name+"="+forged); a.status != 401 {
			t.Errorf("%s: %d", why, a.status)
		}
	}
	b.ahead.Store(int64(admin.SessionLife + time.Minute))
	b.want(401, "unauthorized", "GET", "/api/v1/apps", "", session)
	b.ahead.Store(0)

	out := b.want(204, "", "POST", "/logout", "")
	if !strings.Contains(out.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("logout: %v", out.header)
	}
	b.want(401, "unauthorized", "POST", "/login", `{"token":"wrong-token-0123456789"}`)
	b.want(415, "unsupported_content_type", "POST", "/login", "token", "Content-Type: text/plain")
	b.want(422, "invalid_request", "POST", "/login", `{"tokens":""}`)
}

// A session holds for every replica with the same tokens, and ends with its token.
func TestSessionAcrossReplicas(t *testing.T) {
	first := listen(t, withTokens())
	pair, _, _ := strings.Cut(first.want(200, "", "POST", "/login", `{"token":"`+operateToken+`"}`).header.Get("Set-Cookie"), ";")
	replica := listen(t, withTokens())
	replica.want(503, "unavailable", "GET", "/api/v1/apps", "", "Cookie: "+pair) // starting, but let in

	changed := withTokens()
	changed.Tokens[0].Hash = admin.HashToken("another-token-0123456789")
	after := listen(t, changed)
	after.want(401, "unauthorized", "GET", "/api/v1/apps", "", "Cookie: "+pair)
}

func TestSecureCookieUnderAnHTTPSName(t *testing.T) {
	cfg := withTokens()
	cfg.PublicURL = "https://backstop.example.com"
	b := listen(t, cfg)
	body := `{"token":"` + readToken + `"}`
	if a := b.want(200, "", "POST", "/login", body, "Host: backstop.example.com"); !strings.Contains(a.header.Get("Set-Cookie"), "Secure") {
		t.Errorf("cookie %s", a.header.Get("Set-Cookie"))
	}
}

func TestParseTokens(t *testing.T) {
	hash := fmt.Sprintf("%x", admin.HashToken(readToken))
	tokens, err := admin.ParseTokens([]byte("# those who look\n\ngrafana read " + hash + " # since May\nann\toperate\t" + strings.ToUpper(hash) + "\r\n"))
	if err != nil || len(tokens) != 2 || tokens[0].Role != admin.RoleRead || tokens[1].Name != "ann" || tokens[1].Hash != admin.HashToken(readToken) {
		t.Errorf("got %+v, %v", tokens, err)
	}
	for _, tc := range []struct{ in, want, why string }{
		{"ann read", "line 1: want name, role and hash", "a word is missing"},
		{"\nann boss " + hash, `line 2: "boss" is not a role`, "no such role"},
		{"ann read abc", "SHA-256", "no hash"},
		{"ann read " + readToken + readToken, "SHA-256", "the token itself"},
		{"admin read " + hash, "BACKSTOP_ADMIN_TOKEN", "a name that is taken"},
		{"ann read " + hash + "\nann admin " + hash, "already", "twice"},
		{strings.Repeat("x", 65) + " read " + hash, "64", "too long a name"},
	} {
		_, err := admin.ParseTokens([]byte(tc.in))
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), hash) || strings.Contains(err.Error(), readToken) {
			t.Errorf("%s: %v, want %q", tc.why, err, tc.want)
		}
	}
}

func FuzzParseTokens(f *testing.F) {
	f.Add([]byte("ann read 00"))
	f.Add([]byte("# x\n\x00 a b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tokens, err := admin.ParseTokens(data)
		for _, token := range tokens {
			if err != nil || token.Name == "" || token.Role.String() == "" {
				t.Errorf("%q gives %+v, %v", data, token, err)
			}
		}
	})
}
