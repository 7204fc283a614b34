package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"backstop/cmd/backstop/admin"
	"backstop/dispatcher/callback"
	"backstop/dispatcher/sign"
	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/logtest"
)

// What the tests' app signs with: its secret, and the one before it.
const (
	newSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	oldSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
)

var tokenKey = []byte("what the replicas derive from their key file")

// desk is where callbacks are taken: a real broker behind replicas that serve
// real HTTP.
type desk struct {
	*testing.T
	srv    *natstest.Server
	js     jetstream.JetStream
	issuer *callback.Issuer
	log    *logtest.Buffer
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{T: t, srv: natstest.Start(t), issuer: callback.NewIssuer(tokenKey, 0), log: &logtest.Buffer{}}
	d.js = d.srv.JetStream()
	d.must(streams.NewTopology(d.js, streams.Settings{StoreBytes: 4 << 30}).Ensure(t.Context()))
	return d
}

func (d *desk) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// accept stores a result; see admin.Callbacks.
type accept = func(context.Context, streams.Result, bool) error

// replica starts one and returns its URL. change may wrap how it stores results.
func (d *desk) replica(change ...func(accept) accept) string {
	d.Helper()
	callbacks, err := streams.NewCallbacks(d.Context(), d.js)
	d.must(err)
	c := &admin.Callbacks{
		Issuer: callback.NewIssuer(tokenKey, 0), Accept: callbacks.Accept,
		Secrets: func(app string) []string {
			if app == "quiz" {
				return []string{newSecret, oldSecret}
			}
			return nil
		},
	}
	for _, wrap := range change {
		c.Accept = wrap(c.Accept)
	}
	return d.serve(func() *admin.Callbacks { return c })
}

func (d *desk) serve(callbacks func() *admin.Callbacks) string {
	fine := func() error { return nil }
	return serveLogged(d.T, admin.Config{
		Token: "s3cret", Metrics: prometheus.NewRegistry(), Healthy: fine, Ready: fine, Callbacks: callbacks,
		Log: slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
}

// token returns one for the event at its app.
func (d *desk) token(id, app string, awaited bool, age time.Duration) string {
	d.Helper()
	token, ok := d.issuer.Append(nil, callback.Grant{ID: id, Origin: "origin-" + id, Capability: "report", App: app, Awaited: awaited}, time.Now().Add(-age))
	if !ok {
		d.Fatal("no token")
	}
	return string(token)
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) code(t *testing.T) string {
	t.Helper()
	var p struct {
		Status int
		Title  string
		Code   string
		Detail string
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil || p.Status != r.status || p.Title == "" || p.Detail == "" {
		t.Errorf("%d %q is no problem: %v", r.status, r.body, err)
	}
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("a problem of type %q", got)
	}
	return p.Code
}

func (d *desk) send(method, url string, header http.Header, body string) (reply, error) {
	req, err := http.NewRequestWithContext(d.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if header != nil {
		req.Header = header
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(text)}, err
}

func (d *desk) post(url, body string) reply {
	d.Helper()
	r, err := d.send(http.MethodPost, url, nil, body)
	d.must(err)
	return r
}

// results returns what is stored, decoded.
func (d *desk) results() []streams.Result {
	d.Helper()
	stream, err := d.js.Stream(d.Context(), streams.ResultStream)
	d.must(err)
	var all []streams.Result
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		msg, err := stream.GetMsg(d.Context(), seq)
		d.must(err)
		r, err := streams.DecodeResult(msg.Subject, msg.Header, msg.Data)
		d.must(err)
		all = append(all, r)
	}
	return all
}

func TestCallbackBecomesAResult(t *testing.T) {
	d := newDesk(t)
	url := d.replica()
	body := "{ \"rows\" : 1.50,\n\t\"name\":\"Zoë\" }"
	got := d.post(url+"/callbacks/"+d.token("id-1", "quiz", false, 0), body)
	if got.status != 200 || got.body != `{"accepted":true,"id":"id-1"}`+"\n" || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("%+v", got)
	}
	stream, err := d.js.Stream(t.Context(), streams.ResultStream)
	d.must(err)
	msg, err := stream.GetMsg(t.Context(), 1)
	d.must(err)
	if string(msg.Data) != body || msg.Subject != "results.report.quiz" {
		t.Errorf("%s: %q, want the body byte for byte", msg.Subject, msg.Data)
	}
	for name, want := range map[string]string{
		"Backstop-Id": "id-1", "Backstop-App": "quiz", "Backstop-Capability": "report", "Backstop-Result": "callback",
	} {
		if got := msg.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if window := stream.CachedInfo().Config.Duplicates; window < callback.Validity {
		t.Errorf("repeats are recognised for %v, while a token is good for %v", window, callback.Validity)
	}
}

// However often it is repeated, with another body and with the token of another
// attempt too, at two replicas at once: one result, and one and the same answer.
func TestCallbackIsTakenOnce(t *testing.T) {
	d := newDesk(t)
	replicas := []string{d.replica(), d.replica()}
	tokens := []string{d.token("id-1", "quiz", true, 0), d.token("id-1", "quiz", true, time.Hour)}
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			got, err := d.send(http.MethodPost, replicas[n%2]+"/callbacks/"+tokens[n/2%2], nil, fmt.Sprintf(`{"n":%d}`, n))
			if err != nil || got.status != 200 || got.body != `{"accepted":true,"id":"id-1"}`+"\n" {
				t.Errorf("%d: %+v %v", n, got, err)
			}
		})
	}
	all.Wait()
	if got := d.results(); len(got) != 1 {
		t.Fatalf("%d results: %v", len(got), got)
	}
	d.post(replicas[0]+"/callbacks/"+d.token("id-2", "quiz", true, 0), `{}`)
	if got := d.results(); len(got) != 2 || got[1].ID != "id-2" {
		t.Errorf("another event's callback: %v", got)
	}
}

func TestCallbackThatIsRefused(t *testing.T) {
	d := newDesk(t)
	url := d.replica() + "/callbacks/"
	good, unsigned := d.token("id-1", "quiz", false, 0), d.token("id-2", "nosecret", false, 0)
	const body = `{"done":true}`
	signed := func(change func(http.Header), body string, at time.Time, secrets ...string) http.Header {
		h := http.Header{}
		d.must(sign.NewSigner().Sign(h.Set, "id-1", at, []byte(body), secrets))
		if change != nil {
			change(h)
		}
		return h
	}
	only := func(name string) func(http.Header) {
		return func(h http.Header) {
			for k := range h {
				if (k == sign.HeaderPlatform) != (name == sign.HeaderPlatform) {
					h.Del(k)
				}
			}
		}
	}
	now := time.Now()
	for _, tc := range []struct {
		name, method, token, body string
		header                    http.Header
		status                    int
		code                      string
	}{
		{name: "no token", token: "", status: 404, code: "not_found"},
		{name: "cut token", token: good[:len(good)-3], status: 404, code: "not_found"},
		{name: "changed token", token: "B" + good[1:], status: 404, code: "not_found"},
		{name: "token with a path behind it", token: good + "/x", status: 404, code: "not_found"},
		{name: "long token", token: strings.Repeat("A", 8000), status: 404, code: "not_found"},
		{name: "token of others", token: foreign(t), status: 404, code: "not_found"},
		{name: "expired token", token: d.token("id-1", "quiz", false, callback.Validity+time.Second), status: 410, code: "expired"},
		{name: "GET", method: "GET", status: 405, code: "method_not_allowed"},
		{name: "PUT", method: "PUT", status: 405, code: "method_not_allowed"},
		{name: "DELETE of no token", method: "DELETE", token: "x", status: 405, code: "method_not_allowed"},
		{name: "empty body", body: " ", status: 400, code: "bad_payload"},
		{name: "not JSON", body: "done=true", status: 400, code: "bad_payload"},
		{name: "cut JSON", body: `{"done":`, status: 400, code: "bad_payload"},
		{name: "two values", body: `{} {}`, status: 400, code: "bad_payload"},
		{name: "one byte too many", body: `"` + strings.Repeat("x", 64<<10-1) + `"`, status: 413, code: "payload_too_large"},
		{name: "far too large", body: `"` + strings.Repeat("x", 4<<20) + `"`, status: 413, code: "payload_too_large"},
		{name: "form", header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, status: 415, code: "unsupported_content_type"},
		{name: "nonsense type", header: http.Header{"Content-Type": {";;"}}, status: 415, code: "unsupported_content_type"},
		{name: "compressed", header: http.Header{"Content-Encoding": {"gzip"}}, status: 415, code: "unsupported_content_type"},
		{name: "signed with another secret", header: signed(nil, body, now, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), status: 401, code: "bad_signature"},
		{name: "signature of another body", header: signed(nil, `{}`, now, newSecret), status: 401, code: "bad_signature"},
		{name: "one signature of two is wrong", header: signed(func(h http.Header) { h.Set(sign.HeaderPlatform, "sha256=00") }, body, now, newSecret), status: 401, code: "bad_signature"},
		{name: "stale", header: signed(only(sign.HeaderSignature), body, now.Add(-time.Hour), newSecret), status: 401, code: "bad_signature"},
		{name: "signature without its time", header: signed(func(h http.Header) { h.Del(sign.HeaderTimestamp) }, body, now, newSecret), status: 401, code: "bad_signature"},
		{name: "empty signature", header: http.Header{"X-Platform-Signature": {""}}, status: 401, code: "bad_signature"},
		{name: "signed for an app without a secret", token: unsigned, header: signed(nil, body, now, newSecret), status: 401, code: "bad_signature"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token, method, text := tc.token, tc.method, tc.body
			if token == "" && tc.status != 404 {
				token = good
			}
			if method == "" {
				method = http.MethodPost
			}
			if text == "" {
				text = body
			}
			got, err := d.send(method, url+token, tc.header, strings.TrimSpace(text))
			d.must(err)
			if got.status != tc.status || got.code(t) != tc.code {
				t.Errorf("%d %s, want %d %s", got.status, got.body, tc.status, tc.code)
			}
			if allow := got.header.Get("Allow"); (allow == "POST") != (tc.status == 405) {
				t.Errorf("Allow: %q", allow)
			}
			if strings.Contains(got.body, good[:20]) || strings.Contains(got.body, "whsec_") {
				t.Errorf("the answer gives something away: %s", got.body)
			}
		})
	}
	if n := len(d.results()); n != 0 {
		t.Fatalf("%d results of what was refused", n)
	}

	// The token is as good as before.
	for i, h := range []http.Header{
		signed(nil, body, now, newSecret), signed(nil, body, now, newSecret, oldSecret), signed(nil, body, now, oldSecret),
		signed(only(sign.HeaderPlatform), body, now, newSecret), signed(only(sign.HeaderSignature), body, now, newSecret), nil,
		{"Content-Type": {"application/json; charset=utf-8"}},
		{"Content-Type": {"application/cloudevents+json"}},
	} {
		if got, err := d.send(http.MethodPost, url+good, h, body); err != nil || got.status != 200 {
			t.Errorf("%d: %+v %v", i, got, err)
		}
	}
	largest := `"` + strings.Repeat("x", 64<<10-2) + `"`
	if got := d.post(url+unsigned, largest); got.status != 200 {
		t.Errorf("as large as may be: %+v", got)
	}
	if got := d.results(); len(got) != 2 || string(got[0].Payload) != body || string(got[1].Payload) != largest {
		t.Errorf("%d results", len(got))
	}
	// Nobody who reads the log may answer in the app's place.
	if log := d.log.String(); strings.Contains(log, "/callbacks") || strings.Contains(log, good[:20]) {
		t.Errorf("the log has callback URLs: %s", log)
	}
}

// foreign returns a token of somebody else's.
func foreign(t *testing.T) string {
	t.Helper()
	token, ok := callback.NewIssuer([]byte("another key"), 0).Append(nil, callback.Grant{ID: "1", Origin: "1", Capability: "report", App: "quiz"}, time.Now())
	if !ok {
		t.Fatal("no token")
	}
	return string(token)
}

func TestCallbackWhileTheBrokerIsAway(t *testing.T) {
	d := newDesk(t)
	url := d.replica() + "/callbacks/" + d.token("id-1", "quiz", true, 0)
	d.srv.Stop()
	got := d.post(url, `{"n":1}`)
	if got.status != 503 || got.header.Get("Retry-After") == "" || got.code(t) != "unavailable" {
		t.Errorf("%+v", got)
	}
	if log := d.log.String(); strings.Contains(log, "/callbacks") {
		t.Errorf("the log has callback URLs: %s", log)
	}
	d.srv.Restart()
	d.eventually("the callback to be taken", func() bool { return d.post(url, `{"n":2}`).status == 200 })
	if got := d.results(); len(got) != 1 {
		t.Errorf("%d results: %v", len(got), got)
	}
}

func (d *desk) eventually(what string, holds func() bool) {
	d.Helper()
	patience := time.After(time.Minute)
	for !holds() {
		select {
		case <-patience:
			d.Fatalf("gave up waiting for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestCallbackBeforeBackstopHasStarted(t *testing.T) {
	d := newDesk(t)
	url := d.serve(func() *admin.Callbacks { return nil })
	if got := d.post(url+"/callbacks/"+d.token("id-1", "quiz", false, 0), `{}`); got.status != 503 || got.code(t) != "unavailable" || got.header.Get("Retry-After") == "" {
		t.Errorf("%+v", got)
	}
}

// A replica that dies after any step of storing and before it answers: the app
// sends the callback again, to another one, and there is one result.
func TestCallbackAfterACrash(t *testing.T) {
	for name, die := range map[string]func(accept) accept{
		"before anything": func(accept) accept {
			return func(context.Context, streams.Result, bool) error { panic(http.ErrAbortHandler) }
		},
		"between publishing and the record": func(store accept) accept {
			return func(ctx context.Context, r streams.Result, _ bool) error {
				_ = store(ctx, r, false)
				panic(http.ErrAbortHandler)
			}
		},
		"before the answer": func(store accept) accept {
			return func(ctx context.Context, r streams.Result, awaited bool) error {
				_ = store(ctx, r, awaited)
				panic(http.ErrAbortHandler)
			}
		},
		"or it only seems so": func(store accept) accept {
			return func(ctx context.Context, r streams.Result, awaited bool) error {
				_ = store(ctx, r, awaited)
				return errors.New("no answer in time")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			dying, living := d.replica(die), d.replica()
			token := d.token("id-1", "quiz", true, 0)
			if got, err := d.send(http.MethodPost, dying+"/callbacks/"+token, nil, `{"n":1}`); err == nil && got.status != 503 {
				t.Errorf("the dead answered: %+v", got)
			}
			if got := d.post(living+"/callbacks/"+token, `{"n":1}`); got.status != 200 {
				t.Errorf("%+v", got)
			}
			if got := d.results(); len(got) != 1 {
				t.Errorf("%d results: %v", len(got), got)
			}
			callbacks, err := streams.NewCallbacks(t.Context(), d.js)
			d.must(err)
			if a, revision, err := callbacks.Get(t.Context(), "report.quiz.origin-id-1"); err != nil || revision == 0 || a.Received.IsZero() {
				t.Errorf("the record of the callback: %+v %v", a, err)
			}
		})
	}
}
