package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/logtest"
)

// accounts is a NATS server with the users of docs/deploy/nats-accounts.conf.
type accounts struct {
	*testing.T
	url string
}

// startAccounts loads the file as an operator does: included in a
// configuration, with the passwords in the environment.
func startAccounts(t *testing.T) *accounts {
	t.Helper()
	cleanEnvironment(t)
	for _, user := range []string{"backstop", "operator", "monitor", "publisher", "caller", "system"} {
		t.Setenv("NATS_"+strings.ToUpper(user)+"_PASSWORD", "pass-of-"+user)
	}
	dir := t.TempDir()
	text, err := os.ReadFile("../../docs/deploy/nats-accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	main := "listen: \"127.0.0.1:-1\"\njetstream { store_dir: \"" + filepath.Join(dir, "store") + "\" }\ninclude \"nats-accounts.conf\"\n"
	for name, content := range map[string][]byte{"nats-accounts.conf": text, "server.conf": []byte(main)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opts, err := server.ProcessConfigFile(filepath.Join(dir, "server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	return &accounts{t, runNATS(t, opts).ClientURL()}
}

// serve runs the pipeline as the user backstop, and returns what it logs.
func (a *accounts) serve() *logtest.Buffer {
	a.Helper()
	log := new(logtest.Buffer)
	cfg := defaultConfig()
	cfg.NATSURL, cfg.NATSUser, cfg.NATSPassword, cfg.NATSInboxPrefix = a.url, "backstop", "pass-of-backstop", "_INBOX_backstop"
	cfg.DataDir, cfg.HTTPAddr = a.TempDir(), "127.0.0.1:0"
	if err := cfg.AllowedNetworks.Decode("127.0.0.0/8"); err != nil {
		a.Fatal(err)
	}
	if err := cfg.derive(); err != nil {
		a.Fatal(err)
	}
	runServe(a.T, cfg, slog.New(slog.NewTextHandler(log, nil)))
	return log
}

// serveInTest runs the pipeline with the settings in the environment.
func serveInTest(t *testing.T) running {
	t.Helper()
	cfg, _, err := LoadConfig()
	if err != nil {
		t.Fatal(err)
	}
	return runServe(t, cfg, newLogger(cfg, t.Output()))
}

// runServe runs the pipeline until the test ends, and returns when it is ready.
func runServe(t *testing.T, cfg Config, log *slog.Logger) running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan running, 1), make(chan error, 1)
	go func() { done <- serve(ctx, cfg, log, func(r running) { ready <- r }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	select {
	case r := <-ready:
		return r
	case err := <-done:
		done <- nil
		t.Fatalf("serve ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("serve did not get ready")
	}
	return running{}
}

// freePort returns an address of loopback where nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// as runs a command as a user, and returns its exit code and what it said.
func (a *accounts) as(user, in string, args ...string) (code int, out string) {
	a.Helper()
	a.Setenv("NATS_URL", a.url)
	a.Setenv("NATS_USER", user)
	a.Setenv("NATS_PASSWORD", "pass-of-"+user)
	a.Setenv("NATS_INBOX_PREFIX", "_INBOX_"+user)
	var said bytes.Buffer
	code = run(args, strings.NewReader(in), &said, &said)
	return code, said.String()
}

func (a *accounts) works(user, in string, args ...string) string {
	a.Helper()
	code, out := a.as(user, in, args...)
	if code != 0 || strings.Contains(strings.ToLower(out), "permission") {
		a.Errorf("%s: backstop %s: exit code %d, said %s", user, strings.Join(args, " "), code, out)
	}
	return out
}

// login connects as a user, and returns the violations that the server tells of.
func (a *accounts) login(user string) (*nats.Conn, <-chan error) {
	a.Helper()
	violations := make(chan error, 100)
	nc, err := nats.Connect(a.url, nats.UserInfo(user, "pass-of-"+user), nats.CustomInboxPrefix("_INBOX_"+user),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violations <- err }))
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(nc.Close)
	return nc, violations
}

// The pipeline does all of its work, and every command all of its own, with the
// permissions of the example.
func TestAccountsSuffice(t *testing.T) {
	a := startAccounts(t)
	log := a.serve()
	var sick sync.Map // path → true
	sick.Store("/analytics", true)
	delivered := make(chan string, 10)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if ill, _ := sick.Load(r.URL.Path); ill == any(true) {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		delivered <- r.Header.Get("X-Request-Id")
	}))
	defer app.Close()
	manifest := fmt.Sprintf(`{"appId":"quiz","baseUrl":%q,"webhooks":{"analytics":{"path":"/analytics","async":true,
		"retry":{"maxAttempts":2,"initialDelay":20,"maxDelay":50},"breaker":{"failureThreshold":5,"recoveryTimeout":500,"successThreshold":1}}}}`, app.URL)
	a.works("operator", manifest, "apps", "apply", "-")
	a.works("operator", "", "apps", "list")
	a.works("operator", "", "apps", "show", "quiz")
	a.works("operator", "", "apps", "rotate-secret", "quiz")
	a.works("operator", "", "publish", "analytics", "quiz", "--id", "fails", `{}`)

	// Retries, its own lane, and a dead letter.
	a.until("a dead letter", func() bool {
		_, out := a.as("operator", "", "dlq", "list", "--json")
		return strings.Contains(out, "fails")
	})
	sick.Store("/analytics", false)
	a.works("operator", "", "dlq", "replay", "--app", "quiz", "--force")
	a.expect(delivered, "fails")
	// A service, with its own permissions and no others.
	nc, violations := a.login("publisher")
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "events.analytics.quiz", []byte(`{}`), jetstream.WithMsgID("service")); err != nil {
		t.Errorf("publish as a service: %v", err)
	}
	a.expect(delivered, "service")
	a.works("operator", "", "apps", "disable", "quiz", "analytics")
	a.works("operator", "", "apps", "enable", "quiz", "analytics")
	for _, user := range []string{"operator", "monitor"} {
		a.works(user, "", "status")
		a.works(user, "", "breakers", "list")
		a.works(user, "", "dlq", "list")
		a.works(user, "", "apps", "list")
		a.works(user, "", "alerts")
		a.works(user, "", "notices")
		a.until(user+" to find an attempt", func() bool {
			_, out := a.as(user, "", "attempts", "--id", "fails", "--outcome", "failed", "--json")
			return strings.Contains(out, `"status": 500`)
		})
		a.until(user+" to see it added up", func() bool {
			_, out := a.as(user, "", "status", "--interval", "0")
			return strings.Contains(out, "Endpoints within the hour")
		})
	}
	a.works("operator", "", "audit")
	a.works("operator", "", "apps", "remove", "quiz", "--force")
	select {
	case err := <-violations:
		t.Errorf("the service: %v", err)
	default:
	}
	if said := log.String(); strings.Contains(strings.ToLower(said), "permission") {
		t.Errorf("the pipeline lacks permissions:\n%s", said)
	}
}

func (a *accounts) until(what string, holds func() bool) {
	a.Helper()
	for end := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(end) {
			a.Fatalf("gave up waiting for %s", what)
		}
	}
}

func (a *accounts) expect(delivered <-chan string, id string) {
	a.Helper()
	select {
	case got := <-delivered:
		if got != id {
			a.Errorf("delivered %q, want %q", got, id)
		}
	case <-time.After(time.Minute):
		a.Fatalf("%s was not delivered", id)
	}
}

// What nobody but the one it is meant for may do.
func TestAccountsRefuse(t *testing.T) {
	a := startAccounts(t)
	a.serve()
	services := []string{"publisher", "caller", "monitor"}
	all := []string{"publisher", "caller", "monitor", "operator"}
	publishes := []struct {
		subject string
		users   []string
		reason  string
	}{
		{"lanes.analytics.quiz", all, "attempts and times there are believed"},
		{"dlq.analytics.quiz", all, "a dead letter is Backstop's word"},
		{"attempts.analytics.quiz", all, "the delivery log"},
		{"$KV.apps.quiz", services, "another base URL takes every event"},
		{"$KV.secrets.quiz", services, "another secret signs in the app's name"},
		{"$KV.secrets.public.key", services, "another key reads the secrets that follow"},
		{"$KV.breakers.analytics.quiz", services, "stops an app"},
		{"$KV.leases.trim", all, "stops the pipeline's own tasks"},
		{"$KV.alerts.dead_letters", all, "hides what is the matter"},
		{"$KV.rollups.12-00.0", all, "makes a sick app look well"},
		{"$KV.cache.x", all, "answers calls"},
		{"notices.breaker_opened", services, "cries wolf"},
		{"results.analytics.quiz", services, "an app's word"},
		{"events.email.quiz", services, "another capability"},
		{"events.analytics.quiz", []string{"caller", "monitor"}, "events"},
		{"calls.quizAnswer.quiz", []string{"publisher", "monitor"}, "calls"},
		{"calls.winnerSelection.quiz", services, "calls of another capability"},
		{"_INBOX_backstop.x", all, "forged answers"},
		{"_INBOX_operator.x", services, "forged answers"},
		{"$JS.API.STREAM.DELETE.DLQ", append(all, "backstop"), "loses every dead letter"},
		{"$JS.API.STREAM.SNAPSHOT.DLQ", append(all, "backstop"), "takes a copy elsewhere"},
		{"$JS.API.STREAM.RESTORE.DLQ", append(all, "backstop"), "puts another in its place"},
		{"$JS.API.STREAM.CREATE.EVIL", all, "a stream that listens in"},
		{"$JS.API.STREAM.UPDATE.EVENTS_analytics", all, "a stream that forgets"},
		{"$JS.API.STREAM.PURGE.EVENTS_analytics", all, "loses events"},
		{"$JS.API.STREAM.PURGE.DLQ", services, "loses dead letters"},
		{"$JS.API.STREAM.MSG.DELETE.DLQ", services, "loses a dead letter"},
		{"$JS.API.STREAM.MSG.GET.EVENTS_analytics", services, "reads events of others"},
		{"$JS.API.DIRECT.GET.KV_secrets.$KV.secrets.quiz", services, "reads secrets, sealed as they are"},
		{"$JS.API.STREAM.MSG.GET.KV_secrets", services, "the same"},
		{"$JS.API.CONSUMER.CREATE.EVENTS_analytics.evil", all, "reads events of others"},
		{"$JS.API.CONSUMER.CREATE.KV_secrets.evil", services, "reads secrets, sealed as they are"},
		{"$JS.API.CONSUMER.DELETE.EVENTS_analytics.webhooks", all, "stops delivery"},
		{"$JS.API.CONSUMER.MSG.NEXT.EVENTS_analytics.webhooks", all, "takes events away"},
		{"$JS.API.CONSUMER.PAUSE.LANES.analytics__quiz", all, "stops an app"},
		{"$JS.ACK.EVENTS_analytics.webhooks.1.1.1.1.1", all, "marks events as done"},
		{"$JS.API.STREAM.NAMES", []string{"publisher", "caller"}, "learns what there is"},
		{"$SYS.REQ.SERVER.PING", append(all, "backstop"), "the server itself"},
	}
	for _, user := range append(all, "backstop") {
		nc, violations := a.login(user)
		for _, p := range publishes {
			if contains(p.users, user) {
				if err := nc.Publish(p.subject, []byte(`{}`)); err != nil {
					t.Fatal(err)
				}
				a.violated(violations, user+" publishes to "+p.subject+": "+p.reason, p.subject)
			}
		}
		for _, other := range append(all, "backstop") {
			if other != user {
				a.cantHear(nc, violations, user, "_INBOX_"+other+".>")
			}
		}
		for _, subject := range []string{"_INBOX.>", ">", "events.>", "lanes.>", "$KV.>", "$JS.API.>"} {
			a.cantHear(nc, violations, user, subject)
		}
		if user != "backstop" {
			a.cantHear(nc, violations, user, "calls.>")
		}
		if contains([]string{"publisher", "caller"}, user) {
			a.cantHear(nc, violations, user, "notices.>")
			a.cantHear(nc, violations, user, "dlq.>")
		}
	}
	// A caller's own calls are allowed, and answered by whoever listens.
	callee, _ := a.login("backstop")
	if _, err := callee.Subscribe("calls.quizAnswer.*", func(m *nats.Msg) { _ = m.Respond([]byte("yes")) }); err != nil {
		t.Fatal(err)
	}
	if err := callee.Flush(); err != nil {
		t.Fatal(err)
	}
	caller, _ := a.login("caller")
	inbox := caller.NewInbox()
	answers, err := caller.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := caller.PublishRequest("calls.quizAnswer.quiz", inbox, []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	for answered := false; !answered; { // serve answers as well, that there is no such app, and may be first
		m, err := answers.NextMsg(time.Minute)
		if err != nil {
			t.Fatalf("a call: %v", err)
		}
		answered = string(m.Data) == "yes"
	}
	// A wrong password gets nobody in.
	if _, err := nats.Connect(a.url, nats.UserInfo("operator", "pass-of-monitor")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := nats.Connect(a.url); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("no password: %v", err)
	}
}

func contains(list []string, s string) bool {
	return strings.Contains(" "+strings.Join(list, " ")+" ", " "+s+" ")
}

// cantHear subscribes and expects to be told that it is not permitted.
func (a *accounts) cantHear(nc *nats.Conn, violations <-chan error, user, subject string) {
	a.Helper()
	if _, err := nc.SubscribeSync(subject); err != nil {
		a.Fatal(err)
	}
	a.violated(violations, user+" listens on "+subject, subject)
}

func (a *accounts) violated(violations <-chan error, what, subject string) {
	a.Helper()
	select {
	case err := <-violations:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`) {
			a.Errorf("%s: the server says %v", what, err)
		}
	case <-time.After(5 * time.Second):
		a.Errorf("%s: the server permits it", what)
	}
}
