package admin_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"backstop/cmd/backstop/admin"
	"backstop/consumers/rollup"
	"backstop/streams"
)

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// page gets a page, wants 200, and that nothing but its own files can work in it.
func (b *bundle) page(path string, headers ...string) string {
	b.Helper()
	a := b.want(200, "", "GET", path, "", headers...)
	if got := a.header.Get("Content-Security-Policy"); got != policy {
		b.Errorf("%s has the policy %s", path, got)
	}
	if a.header.Get("Cache-Control") != "no-store" || a.header.Get("Content-Type") != "text/html; charset=utf-8" {
		b.Errorf("%s has the headers %v", path, a.header)
	}
	for _, inline := range []string{" style=", "<style", "<script>", " onclick=", "javascript:"} {
		if strings.Contains(a.body, inline) {
			b.Errorf("%s has %q, which the policy forbids", path, inline)
		}
	}
	return a.body
}

// Without a script the page can be read: all of it is in the first answer, and
// what others have said is text.
func TestDashboardIsRead(t *testing.T) {
	b := start(t, admin.Config{})
	body := b.page("/")
	for _, want := range []string{"There are no apps yet", "No alert is raised", "No event was given up", "Nothing waits for a person", "No attempt matches", "Nothing has happened"} {
		if !strings.Contains(body, want) {
			t.Errorf("an empty page doesn't say %q", want)
		}
	}
	b.want(201, "", "PUT", "/api/v1/apps/quiz", strings.Replace(quizManifest, `"Quiz"`, `"<b>Quiz</b>"`, 1))
	b.letter("e1", "analytics", streams.Exhausted, `{"a":"<script>alert(1)</script>"}`)
	b.letter("e2", "analytics", streams.RejectedByApp, "\xff\xfe")
	b.notice(streams.NoticeMisconfigured, "<img src=x onerror=alert(1)>\u202Ehidden")
	b.want(200, "", "POST", "/api/v1/breakers/quiz/analytics/open", `{"reason":"<i>moves</i>"}`)

	kv, err := b.js.KeyValue(t.Context(), streams.BreakersBucket)
	b.must(err)
	b.must(streams.NewGates(kv).Set(t.Context(), streams.Gate{
		Capability: "quizAnswer", App: "quiz", State: streams.GateOpen, Since: time.Now(), Until: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Reason: "5 failures",
	}))

	body = b.page("/")
	for _, want := range []string{
		`half-open <time datetime="2030-01-02T03:04:05Z">`,
		"&lt;b&gt;Quiz&lt;/b&gt;", "503 &lt;script&gt;", "&lt;img src=x onerror=alert(1)&gt;\uFFFDhidden", "opened by hand", "&lt;i&gt;moves&lt;/i&gt;",
		`data-act="reset" data-app="quiz" data-capability="analytics"`, `data-act="replay" data-id="e1" data-app="quiz"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q in it:\n%s", want, body)
		}
	}
	if body = b.page("/?d-reason=rejected"); strings.Contains(body, `data-id="e1"`) || !strings.Contains(body, `<option value="rejected" selected>`) {
		t.Error("a filter in the address selects nothing, or isn't shown")
	}
	if body = b.page("/?d-app=a+b&a-outcome=failed"); !strings.Contains(body, "want one name") || !strings.Contains(body, "Waiting for approval") {
		t.Error("a part with a mistake hides it, or the other parts")
	}
	for i := range 60 {
		b.want(201, "", "PUT", fmt.Sprintf("/api/v1/apps/app%d", i), fmt.Sprintf(`{"appId":"app%d","baseUrl":"https://app.example.com","webhooks":{"analytics":{"path":"/a"}}}`, i))
	}
	if body = b.page("/"); strings.Count(body, `class="app"`) != 50 || !strings.Contains(body, "And 11 apps more") || !strings.Contains(body, `data-key="app quiz" open>`) {
		t.Errorf("of 61 apps the page shows %d", strings.Count(body, `class="app"`))
	}
	if body = b.page("/?find=APP59"); strings.Count(body, `class="app"`) != 1 {
		t.Error("an app isn't found by its name")
	}
	if body = b.page("/?find=nobody"); !strings.Contains(body, "No app&#39;s name has “nobody” in it") && !strings.Contains(body, "No app's name has “nobody” in it") {
		t.Errorf("an app that there isn't is found: %s", body)
	}
}

// Parts are asked for alone, and a dead letter has a page of its own.
func TestPartsAndLetters(t *testing.T) {
	b := start(t, admin.Config{})
	b.letter("e1", "analytics", streams.Exhausted, `{"a":"</pre><script>alert(1)</script>"}`)
	if body := b.page("/ui/deadletters?d-app=quiz"); strings.Contains(body, "<html") || !strings.Contains(body, "e1") {
		t.Errorf("the part is %s", body)
	}
	if body := b.page("/deadletters/1"); !strings.Contains(body, "&#34;a&#34;: &#34;&lt;/pre&gt;&lt;script&gt;") {
		t.Errorf("the letter is %s", body)
	}
	for path, status := range map[string]int{
		"/ui/nothing": 404, "/ui/": 404, "/deadletters/2": 404, "/deadletters/0": 404, "/deadletters/x": 404, "/assets/layout.html": 404, "/assets/": 404,
		"/ui/deadletters?d-reason=tired": 400, "/nothing": 404,
	} {
		b.want(status, "", "GET", path, "")
	}
	for _, path := range []string{"/", "/ui/overview", "/assets/app.js"} {
		b.want(405, "method_not_allowed", "POST", path, "")
	}
	for _, file := range []string{"app.js", "style.css", "icon.svg"} {
		a := b.want(200, "", "GET", "/assets/"+file, "")
		b.want(304, "", "GET", "/assets/"+file, "", "If-None-Match: "+a.header.Get("ETag"))
	}
	b.want(403, "", "GET", "/", "", "Host: evil.example")
	b.want(403, "", "GET", "/ui/overview", "", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")
	b.want(303, "", "GET", "/login", "") // there is nothing to log in to
}

// Before NATS is reached the page is there, and says so.
func TestDashboardStarts(t *testing.T) {
	b := listen(t, admin.Config{})
	if body := b.page("/"); strings.Count(body, "Backstop is starting") != 5 {
		t.Errorf("the page says %s", body)
	}
	b.want(503, "", "GET", "/ui/overview", "")
	b.want(503, "", "GET", "/deadletters/1", "")
}

// Who may only read sees no buttons; who hasn't logged in sees nothing.
func TestDashboardLogin(t *testing.T) {
	b := start(t, withTokens())
	b.want(201, "", "PUT", "/api/v1/apps/quiz", quizManifest, "Authorization: Bearer "+adminToken)
	b.letter("e1", "analytics", streams.Exhausted, `{}`)
	if a := b.want(303, "", "GET", "/", ""); a.header.Get("Location") != "/login" {
		t.Errorf("sent to %s", a.header.Get("Location"))
	}
	b.want(303, "", "GET", "/deadletters/1", "")
	b.want(401, "", "GET", "/ui/overview", "") // the script goes to the login itself
	b.page("/login")

	form := "Content-Type: application/x-www-form-urlencoded"
	if a := b.want(401, "", "POST", "/login", "token=wrong", form); !strings.Contains(a.body, "not known") || a.header.Get("Set-Cookie") != "" {
		t.Errorf("a wrong token: %v %s", a.header, a.body)
	}
	b.want(403, "cross_origin", "POST", "/login", "token="+readToken, form, "Sec-Fetch-Site: cross-site")
	sessions := make(map[string]string)
	for _, token := range []string{readToken, operateToken} {
		a := b.want(303, "", "POST", "/login", "token="+token+"%0A", form, "Sec-Fetch-Site: same-origin")
		cookie, err := http.ParseSetCookie(a.header.Get("Set-Cookie"))
		if err != nil || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || a.header.Get("Location") != "/" {
			t.Fatalf("logged in: %v (%v)", a.header, err)
		}
		sessions[token] = "Cookie: " + cookie.Name + "=" + cookie.Value
	}
	reader, operator := b.page("/", sessions[readToken]), b.page("/", sessions[operateToken])
	if strings.Contains(reader, "data-act") || !strings.Contains(reader, "grafana") || !strings.Contains(reader, "e1") {
		t.Error("who may only read has buttons, or can't read")
	}
	if !strings.Contains(operator, `data-act="replay"`) || !strings.Contains(operator, `data-act="open"`) || !strings.Contains(operator, "Log out") {
		t.Error("who may operate has no buttons")
	}
	if a := b.want(303, "", "POST", "/logout", "", form, sessions[readToken]); a.header.Get("Location") != "/login" || !strings.Contains(a.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("logged out: %v", a.header)
	}
}

// Successes go up and failures down, on the scale of the busiest minute, and
// what is little can be seen beside what is much.
func TestSparkline(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	for _, tc := range []struct {
		name             string
		points           []rollup.Point
		good, bad, label string
	}{
		{"nothing", make([]rollup.Point, 2), "", "", "No attempts within 60 minutes"},
		{"none", nil, "", "", "No attempts within 60 minutes"},
		{"one", []rollup.Point{{At: at, Attempts: 1, Succeeded: 1}}, "M0 20v-20.0h1.6v20.0z", "", "Last 60 minutes: 1 attempt, 0 failed; at most 1 a minute"},
		{
			"a failure among many",
			[]rollup.Point{{At: at}, {At: at.Add(time.Minute), Attempts: 2000, Succeeded: 1999}},
			"M2 20v-20.0h1.6v20.0z", "M2 20v1.5h1.6v-1.5z", "Last 60 minutes: 2,000 attempts, 1 failed; at most 2,000 a minute",
		},
	} {
		s := admin.Spark(tc.points)
		if s.Good != tc.good || s.Bad != tc.bad || s.Label != tc.label {
			t.Errorf("%s: %+v", tc.name, s)
		}
	}
}

func TestTexts(t *testing.T) {
	rate := func(r float64) string { return admin.RateText(&r) }
	for got, want := range map[string]string{
		rate(0.99999): "99.9%", rate(1): "100%", rate(0): "0%", admin.RateText(nil): "–",
		admin.MsText(0.26): "0.3 ms", admin.MsText(412.4): "412 ms", admin.MsText(1834): "1.83 s", admin.MsText(2000): "2 s", admin.MsText(90_000): "1.5 min",
		admin.Count(uint64(1234567)): "1,234,567", admin.Count(999): "999",
		admin.Plain("a\u202Eb\u0007c\u2028d\ne"): "a\uFFFDb\uFFFDc\uFFFDd\ne",
		admin.Readable([]byte(`{"a":1}`)):        "{\n  \"a\": 1\n}",
		admin.Readable([]byte("no JSON \u202E")): "no JSON \uFFFD",
		admin.Readable(nil):                      "(empty)",
		admin.Readable([]byte("\xff\x00")):       "00000000  ff 00                                             |..|\n",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	long := admin.Readable([]byte(strings.Repeat("é", 200<<10)))
	if !strings.HasSuffix(long, "é\n… and 144 KiB more; the API has all of it") {
		t.Errorf("a long payload ends with %q", long[len(long)-80:])
	}
}
