//go:build e2e

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// Words that an app, a publisher or an operator may say, and that a page must
// only ever show.
const (
	hostile = `<img src=x onerror=alert(1)></script><script>alert(2)</script>`
	unseen  = "\u202Ereversed"
)

// TestE2EPage: an operator does with clicks, in Chromium, all that the
// dashboard offers, over a real pipeline with real apps.
func TestE2EPage(t *testing.T) {
	p := startPage(t, "")
	for _, step := range []struct {
		name string
		do   func(p *pageTest)
	}{
		{"overview", (*pageTest).overview},
		{"dead letters", (*pageTest).deadLetters},
		{"approvals", (*pageTest).approvals},
		{"breakers and switches", (*pageTest).breakers},
		{"attempts", (*pageTest).attempts},
		{"notices", (*pageTest).notices},
		{"keyboard", (*pageTest).keyboard},
		{"looks", (*pageTest).looks},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			at := *p
			at.T = t
			step.do(&at)
			at.calm()
		}) {
			break // the next begins where this one ends
		}
	}
}

// TestE2EPageLogin: with a token in the settings, the page takes a login.
func TestE2EPageLogin(t *testing.T) {
	p := startPage(t, apiToken)
	p.open("/")
	p.until("the login page is shown", `location.pathname === '/login'`)
	p.shot("login")
	p.typed(`#token`, "a-wrong-token")
	p.click(`button.primary`)
	p.until("the token is refused", `document.querySelector('#refused').textContent.includes('not known')`)
	p.expect("401")
	p.typed(`#token`, apiToken)
	p.click(`button.primary`)
	p.until("the dashboard is shown, live", `location.pathname === '/' && document.querySelector('#connection').textContent === 'Live'`)
	if p.is(`document.cookie.includes('session')`) {
		t.Error("a script can read the session")
	}
	p.click(button("open", "report", "sick"))
	p.click(`#ask-do`)
	p.until("a session may do what its token may", `document.querySelector('.gate.forced-open') !== null`)
	p.click(`.who button`)
	p.until("logged out", `location.pathname === '/login'`)
	p.open("/")
	p.until("it stays so", `location.pathname === '/login'`)
	p.calm()
}

// pageTest is a browser in front of a pipeline with two apps: quiz is well, and
// sick answers with hostile words until it is told to get well.
type pageTest struct {
	*testing.T
	browser  context.Context
	url      string
	wire     *wire
	nc       *nats.Conn
	well     *atomic.Bool
	arrived  chan string // path and id of what reached an app and was taken
	mu       *sync.Mutex
	messages *[]string // of the console that aren't expected
}

func startPage(t *testing.T, token string) *pageTest {
	t.Helper()
	path := chromium(t)
	dir := t.TempDir()
	cfg := defaultConfig()
	cfg.DataDir, cfg.SecretsKeyFile, cfg.ReplicaName = dir, dir+"/secrets.key", "r1"
	cfg.EmbeddedAddr, cfg.HTTPAddr, cfg.Sync, cfg.StoreMax = "127.0.0.1:0", "127.0.0.1:0", "1s", 1<<30
	cfg.AllowedNetworks, cfg.AdminToken = networks{netip.MustParsePrefix("127.0.0.0/8")}, token
	where := runServe(t, cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	p := &pageTest{T: t, well: new(atomic.Bool), arrived: make(chan string, 1000), mu: new(sync.Mutex), messages: new([]string)}
	p.wire = newWire(t, strings.TrimPrefix(where.HTTP, "http://"))
	p.url = "http://" + p.wire.listener.Addr().String()

	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/sick") && !p.well.Load() {
			w.WriteHeader(map[bool]int{true: http.StatusInternalServerError, false: http.StatusBadRequest}[strings.HasSuffix(r.URL.Path, "registration")])
			_, _ = io.WriteString(w, hostile)
			return
		}
		p.arrived <- r.URL.Path + " " + r.Header.Get("X-Request-Id")
		_, _ = io.WriteString(w, `{"success":true,"data":{"correct":true}}`)
	}))
	t.Cleanup(app.Close)
	t.Setenv("NATS_URL", where.NATS)
	for _, manifest := range []string{
		`{"appId":"quiz","name":"Quiz & Co <b>","baseUrl":%q,"webhooks":{"report":{"path":"/report","async":true},"quizAnswer":{"path":"/answer"}}}`,
		`{"appId":"sick","baseUrl":%q,"webhooks":{"report":{"path":"/sick/report","async":true},"participantRegistration":{"path":"/sick/registration"}}}`,
	} {
		root := newRoot(strings.NewReader(fmt.Sprintf(manifest, app.URL)), t.Output(), t.Output())
		root.SetArgs([]string{"apps", "apply", "-"})
		fatal(t, root.ExecuteContext(t.Context()))
	}
	var err error
	p.nc, err = nats.Connect(where.NATS)
	fatal(t, err)
	t.Cleanup(p.nc.Close)
	js, err := jetstream.New(p.nc)
	fatal(t, err)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if _, err := js.Stream(t.Context(), streams.EventStream("report")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the capability has no stream")
		}
	}
	p.start(path)
	return p
}

// chromium returns the browser. Without one the test is skipped, but not in CI.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("there is no chromium, chromium-browser or google-chrome in PATH")
	}
	t.Skip("SKIPPED: the dashboard is tested in a browser, and there is no chromium, chromium-browser or google-chrome in PATH")
	return ""
}

// start starts the browser and listens to its console.
func (p *pageTest) start(path string) {
	p.Helper()
	allocator, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.WindowSize(1440, 900), chromedp.Flag("disable-dev-shm-usage", true), chromedp.UserDataDir(p.TempDir()))
	p.Cleanup(cancel)
	browser, cancel := chromedp.NewContext(allocator)
	p.Cleanup(func() { _ = chromedp.Cancel(browser); cancel() })
	p.browser = browser
	fatal(p.T, chromedp.Do(browser, chromedp.EmulateViewport(1440, 900)))
	console := chromedp.Console(browser)
	var listening sync.WaitGroup
	p.Cleanup(listening.Wait)
	p.Cleanup(cancel)
	listening.Go(func() {
		for message, err := range console {
			if err != nil {
				return
			}
			if message.Type != chromedp.ConsoleError && message.Type != chromedp.ConsoleException && message.Type != chromedp.ConsoleWarning {
				continue
			}
			p.mu.Lock()
			*p.messages = append(*p.messages, fmt.Sprintf("%s: %s (%s)", message.Type, message.Text, message.URL))
			p.mu.Unlock()
		}
	})
}

// expect forgets messages of the console that have to be there, each with the words.
func (p *pageTest) expect(words string) {
	p.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := (*p.messages)[:0]
	for _, m := range *p.messages {
		if !strings.Contains(m, words) {
			kept = append(kept, m)
		}
	}
	*p.messages = kept
}

// calm fails the test if the console has said something: an error of the
// script, or something that the policy has refused.
func (p *pageTest) calm() {
	p.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range *p.messages {
		p.Errorf("the console says: %s", m)
	}
	*p.messages = nil
}

// patience is for a machine that has much else to do.
const patience = 30 * time.Second

func (p *pageTest) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.browser, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.shot("failed")
		p.Fatalf("%s: %v", what, err)
	}
}

func (p *pageTest) open(path string) {
	p.Helper()
	p.do("open "+path, chromedp.Navigate(p.url+path))
}

func (p *pageTest) click(selector string) {
	p.Helper()
	for began := time.Now(); ; {
		ctx, cancel := context.WithTimeout(p.browser, patience)
		_, err := chromedp.Run(ctx, chromedp.Click(chromedp.CSS(selector)))
		cancel()
		switch {
		case err == nil:
			return
		case strings.Contains(err.Error(), "node with given id") && time.Since(began) < patience:
			// The part was fetched again between looking for it and the click.
		default:
			p.Fatalf("click %s: %v", selector, err)
		}
	}
}

// typed types over what a field has.
func (p *pageTest) typed(selector, text string) {
	p.Helper()
	p.is(fmt.Sprintf("(document.querySelector(%q).value = '', true)", selector))
	p.do("type into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text))
}

// is evaluates a condition in the page.
func (p *pageTest) is(condition string) bool {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.browser, patience)
	defer cancel()
	yes, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+condition+")"))
	return err == nil && yes // a page that is being loaded has nothing yet
}

// until waits until a condition holds in the page.
func (p *pageTest) until(what, condition string) {
	p.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !p.is(condition); <-tick.C {
		if time.Now().After(deadline) {
			p.shot("failed")
			text, _ := chromedp.Run(p.browser, chromedp.Evaluate[string]("document.body.innerText"))
			p.Fatalf("gave up waiting until %s: %s\nthe page says:\n%s", what, condition, text)
		}
	}
}

// within is the text of an element, "" without it, as an expression.
func within(selector string) string {
	return fmt.Sprintf("(document.querySelector(%q)?.textContent ?? '')", selector)
}

// button selects the one that does something to an endpoint.
func button(act, capability, app string) string {
	return fmt.Sprintf("[data-key='%s %s %s']", act, capability, app)
}

// arrives waits until an app has taken something.
func (p *pageTest) arrives(want string) {
	p.Helper()
	for timeout := time.After(patience); ; {
		select {
		case got := <-p.arrived:
			if got == want {
				return
			}
		case <-timeout:
			p.Fatalf("%s never arrived", want)
		}
	}
}

// shot stores what the page looks like, if somebody wants to look.
func (p *pageTest) shot(name string) {
	dir := os.Getenv("PAGE_SHOTS")
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(p.browser, patience)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600)
	}
	if err != nil {
		p.Logf("no picture of %s: %v", name, err)
	}
}

func (p *pageTest) publish(subject, id, payload string) {
	p.Helper()
	fatal(p.T, p.nc.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{"Nats-Msg-Id": {id}}, Data: []byte(payload)}))
}

// overview: figures, states, sparklines, an app's name as text.
func (p *pageTest) overview() {
	for i := range 20 {
		p.publish("events.report.quiz", fmt.Sprintf("well-%d", i), `{"n":1}`)
	}
	for i := range 3 {
		p.publish("events.report.sick", fmt.Sprintf("sick-%d", i), `{"said":"`+hostile+unseen+`"}`)
	}
	p.open("/")
	p.until("it is live", within("#connection")+" === 'Live'")
	p.until("the dead letters are counted", `[...document.querySelectorAll('.tiles > div')].some(t => t.textContent.startsWith('Dead letters3'))`)
	p.until("the rates are told", within("#apps")+`.includes('100% of 20')`)
	p.until("what failed is drawn", `document.querySelector('.spark .bad') !== null && document.querySelector('.spark .good') !== null`)
	p.until("the app's name is text", within("#apps")+`.includes('Quiz & Co <b>')`)
	if p.is(`document.querySelector('#apps b b')`) {
		p.Error("the app's name is markup")
	}
}

// deadLetters: hostile words as text, filters, a payload, discard and replay of
// one and of many, each with its dry run.
func (p *pageTest) deadLetters() {
	rows := `document.querySelectorAll('[data-part=deadletters] tbody tr').length`
	p.until("they are listed", rows+" === 3")
	p.click(`[data-part=deadletters] [data-view]`)
	p.until("the payload is shown as text", within("#view pre")+".includes("+fmt.Sprintf("%q", hostile)+")")
	p.until("what would hide text is seen", within("#view pre")+`.includes('\uFFFDreversed')`)
	if p.is(`document.querySelector('img[src="x"], #view script, [data-part] script')`) {
		p.Error("a payload is markup")
	}
	p.shot("payload")
	p.click(`#view button`)
	p.until("it is closed", `!document.querySelector('#view').open`)

	p.typed(`[name=d-app]`, "nobody")
	p.click(`[data-for=deadletters] button`)
	p.until("nothing matches", within("[data-part=deadletters]")+`.includes('No dead letter matches')`)
	p.typed(`[name=d-app]`, "a b")
	p.click(`[data-for=deadletters] button`)
	p.until("a name that can't be is told", `document.querySelector('#deadletters .stale')?.textContent.includes('want one name')`)
	p.expect("400")
	p.typed(`[name=d-app]`, "sick")
	p.click(`[data-for=deadletters] button`)
	p.until("those of the app are listed, and the address says so", rows+` === 3 && location.search.includes('d-app=sick') && !document.querySelector('.stale')`)

	p.click(`[data-act=discard][data-id=sick-0]`)
	p.until("the dry run says how many", within("#ask-title")+` === 'Discard 1 dead letter?' && `+within("#ask-text")+`.includes('sick-0')`)
	p.shot("discard")
	p.click(`#ask-cancel`)
	p.until("cancelled is nothing done", `!document.querySelector('#ask').open && `+rows+` === 3`)
	p.click(`[data-act=discard][data-id=sick-0]`)
	p.do("a reason", chromedp.SendKeys(chromedp.CSS("#ask-why"), hostile))
	p.click(`#ask-do`)
	p.until("one is gone", rows+` === 2 && `+within("#told")+`.includes('1 discarded')`)
	p.until("a notice says so", within("#notice-list")+`.includes('loopback discarded the dead letter of event sick-0')`)

	p.well.Store(true)
	p.click(`[data-key='replay all']`)
	p.until("the dry run says how many", within("#ask-do")+` === 'Replay 2 dead letters'`)
	p.click(`#ask-do`)
	p.arrives("/sick/report sick-2")
	p.until("none is left", within("#told")+`.includes('2 replayed') && `+rows+` === 0`)
	p.open("/")
}

// approvals: a call that waits for a person is approved, another rejected.
func (p *pageTest) approvals() {
	p.well.Store(false)
	for _, id := range []string{"call-1", "call-2"} {
		reply, err := p.nc.RequestMsg(&nats.Msg{
			Subject: "calls.participantRegistration.sick", Header: nats.Header{"Nats-Msg-Id": {id}}, Data: fmt.Appendf(nil, `{"name":%q}`, hostile),
		}, patience)
		fatal(p.T, err)
		if !strings.Contains(string(reply.Data), `"source":"pending"`) {
			p.Fatalf("the call was answered %s", reply.Data)
		}
	}
	p.until("both wait", `document.querySelectorAll('[data-part=pending] tbody tr').length === 2`)
	p.click(`[data-part=pending] details summary`)
	p.until("the payload is text", within("[data-part=pending] pre")+".includes('<img src=x')")
	p.well.Store(true)
	p.click(`[data-act=approve][data-id=call-1]`)
	p.do("a reason", chromedp.SendKeys(chromedp.CSS("#ask-why"), "a regular"))
	p.click(`#ask-do`)
	p.arrives("/sick/registration call-1")
	p.click(`[data-act=reject][data-id=call-2]`)
	p.click(`#ask-do`)
	p.until("nothing waits", within("[data-part=pending]")+`.includes('Nothing waits')`)
}

// breakers: open, reset, disable, enable.
func (p *pageTest) breakers() {
	for _, step := range []struct{ act, state string }{
		{"open", "forced-open"}, {"reset", "closed"}, {"disable", "disabled"}, {"enable", "closed"},
	} {
		p.click(button(step.act, "report", "quiz"))
		p.click(`#ask-do`)
		gate := `document.querySelector("[data-key='app quiz'] tr:has([data-app=quiz][data-capability=report]) .gate")`
		p.until(step.act+" shows", gate+`?.classList.contains('`+step.state+`')`)
		p.until("the dialog is closed", `!document.querySelector('#ask').open`)
		if step.act == "open" {
			p.publish("events.report.quiz", "waits", `{}`)
			p.until("what waits in its lane is told", within("[data-key='app quiz']")+`.includes('1 event in its own lane')`)
			p.until("the app is degraded", within("[data-key='app quiz'] .state")+`.startsWith('degraded')`)
			p.shot("degraded")
		}
	}
	p.arrives("/report waits")
}

// attempts: by id, from a dead letter's link and from the form.
func (p *pageTest) attempts() {
	p.typed(`[name=a-id]`, "sick-2")
	p.click(`[data-for=attempts] button`)
	p.until("its attempts are told, and what was answered is text",
		`document.querySelectorAll('[data-part=attempts] tbody tr').length === 2 && `+within("[data-part=attempts]")+`.includes('onerror=')`)
	p.until("the address says so", `location.search.includes('a-id=sick-2')`)
	p.do("again", chromedp.Reload())
	p.until("a reload keeps it", `document.querySelectorAll('[data-part=attempts] tbody tr').length === 2`)
	p.typed(`[name=a-id]`, "no-such-id")
	p.click(`[data-for=attempts] button`)
	p.until("none is told", within("[data-part=attempts]")+`.includes('No attempt matches')`)
}

// notices: one comes without a reload, and those from a time without connection
// come when it is back.
func (p *pageTest) notices() {
	p.notice("the first, " + hostile)
	p.until("it is shown", within("#notice-list")+".includes('the first, <img')")
	p.wire.cut()
	p.until("it says that it is cut off", within("#connection")+`.startsWith('Disconnected')`)
	p.until("what it shows is said to be old", `document.querySelector('.stale') !== null`)
	p.shot("disconnected")
	p.notice("missed by nobody")
	p.wire.mend()
	p.until("it is live again", within("#connection")+" === 'Live'")
	p.until("what came meanwhile is shown", within("#notice-list")+".includes('missed by nobody')")
	p.notice("and after")
	p.until("it goes on", within("#notice-list")+".includes('and after')")
	p.until("nothing is said to be old any more", `document.querySelector('.stale') === null`)
	if p.is(`[...document.querySelectorAll('#notice-list li')].filter(n => n.textContent.includes('the first,')).length !== 1`) {
		p.Error("a notice is shown twice")
	}
	p.expect("ERR_")
}

func (p *pageTest) notice(message string) {
	p.Helper()
	msg, err := streams.Notice{Kind: streams.NoticeMisconfigured, App: "quiz", Time: time.Now().UTC(), Message: message}.Msg()
	fatal(p.T, err)
	fatal(p.T, p.nc.PublishMsg(msg))
}

// keyboard: the page is used with the keys alone, and names what it has.
func (p *pageTest) keyboard() {
	p.open("/")
	p.do("tab", chromedp.KeyEvent("\t"))
	p.until("the first is the way past the header", `document.activeElement.className === 'skip'`)
	p.do("enter", chromedp.KeyEvent("\r"))
	p.do("focus", chromedp.Focus(chromedp.CSS(button("open", "report", "quiz"))), chromedp.KeyEvent("\r"))
	p.until("the dialog has the focus", `document.querySelector('#ask').open && document.activeElement.id === 'ask-why'`)
	p.do("escape", chromedp.KeyEvent("\u001b"))
	p.until("the button has it again", `!document.querySelector('#ask').open && document.activeElement.dataset.key === 'open report quiz'`)
	for what, wrong := range map[string]string{
		"a table without a caption":       `document.querySelector('table:not(:has(caption))')`,
		"a column without a scope":        `document.querySelector('th:not([scope])')`,
		"a field without a label":         `[...document.querySelectorAll('input, select')].some(f => !f.labels.length)`,
		"a button without a name":         `[...document.querySelectorAll('button')].some(b => !b.textContent.trim() && b.id !== 'ask-do')`,
		"a heading that leaves one out":   `[...document.querySelectorAll('h1, h2, h3')].some((h, i, all) => i && h.tagName[1] - all[i - 1].tagName[1] > 1)`,
		"an id that is there twice":       `new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size !== document.querySelectorAll('[id]').length`,
		"a key that is there twice":       `new Set([...document.querySelectorAll('[data-key]')].map(e => e.dataset.key)).size !== document.querySelectorAll('[data-key]').length`,
		"a picture that says nothing":     `document.querySelector('svg:not([aria-label])')`,
		"a style or a script in the page": `document.querySelector('[style], style, script:not([src])')`,
	} {
		if p.is(wrong) {
			p.Errorf("the page has %s", what)
		}
	}
}

// looks: no page is wider than a phone, in either scheme.
func (p *pageTest) looks() {
	p.well.Store(false)
	for i := range 12 {
		p.publish("events.report.sick", fmt.Sprintf("order-%d-with-a-long-id-that-has-to-wrap-somewhere", i), `{"n":1}`)
	}
	_, err := p.nc.RequestMsg(&nats.Msg{Subject: "calls.participantRegistration.sick", Header: nats.Header{"Nats-Msg-Id": {"call-3"}}, Data: []byte(`{}`)}, patience)
	fatal(p.T, err)
	p.open("/")
	p.until("there is something to look at", `document.querySelectorAll('[data-part=deadletters] tbody tr').length >= 5 && document.querySelector('[data-part=pending] tbody')`)
	for _, scheme := range []string{"light", "dark"} {
		p.do(scheme, func(ctx context.Context, _ *chromedp.Target) (chromedp.Void, error) {
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
			})
			return chromedp.Void{}, err
		})
		for _, width := range []int64{1440, 1024, 360} {
			p.do("resize", chromedp.EmulateViewport(width, 900))
			p.shot(fmt.Sprintf("%s-%d", scheme, width))
			if wide := `document.documentElement.scrollWidth > innerWidth`; p.is(wide) {
				p.Errorf("at %d px the page is wider than the screen", width)
			}
		}
	}
	p.click(`[data-part=deadletters] [data-act=replay]`)
	p.until("the dialog is there", `document.querySelector('#ask').open`)
	p.shot("phone-dialog")
	if p.is(`document.querySelector('#ask').getBoundingClientRect().right > innerWidth`) {
		p.Error("the dialog is wider than a phone")
	}
}

// wire is what lies between the browser and the pipeline, and can be cut.
type wire struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	isCut bool
	conns map[net.Conn]bool
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	if u, err := url.Parse("http://" + target); err != nil || u.Port() == "" {
		t.Fatalf("%s is no address", target)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	fatal(t, err)
	w := &wire{listener: listener, target: target, conns: make(map[net.Conn]bool)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		w.cut()
		all.Wait()
	})
	return w
}

// hold remembers a connection, or closes it when the wire is cut.
func (w *wire) hold(conn net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isCut {
		_ = conn.Close()
		return false
	}
	w.conns[conn] = true
	return true
}

func (w *wire) drop(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
		delete(w.conns, conn)
	}
}

func (w *wire) carry(from net.Conn) {
	if !w.hold(from) {
		return
	}
	to, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", w.target)
	if err != nil || !w.hold(to) {
		w.drop(from)
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			w.drop(from, to)
		})
	}
	both.Wait()
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = true
	for conn := range w.conns {
		_ = conn.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = false
}
