package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// The dashboard is one page of parts. The server renders all of it, so that it
// can be read without a script; the script asks for a part anew at /ui/{part},
// and carries out what an operator clicks through the API.

//go:embed ui
var uiFiles embed.FS

var uiTemplates = template.Must(template.New("").Funcs(uiFuncs).ParseFS(uiFiles, "ui/*.html"))

// uiPolicy allows a page what the dashboard needs: its own script, style and
// icon, and to ask this server. What an app has said can't do anything under it
// even if it got into the page as more than text.
const uiPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// renderWithin bounds how long a page waits for what it shows.
const renderWithin = 8 * time.Second

// dashboard adds the pages to mux.
func (s *Server) dashboard(mux *http.ServeMux) {
	mux.Handle("/{$}", s.html(RoleRead, s.wholePage))
	mux.Handle("/ui/{part}", s.html(RoleRead, onePart))
	mux.Handle("/deadletters/{sequence}", s.html(RoleRead, letterPage))
	mux.Handle("GET /login", s.html(0, s.loginPage))
	mux.Handle("/assets/{file}", onlyGet(http.HandlerFunc(asset)))
}

// html serves a page for a person, and tells a problem as one. Who may not see
// it may log in.
func (s *Server) html(needed Role, show func(http.ResponseWriter, *request) error) http.Handler {
	return onlyGet(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", uiPolicy)
		who, p := s.guard(r, needed)
		if p != nil && p.Code == codeUnauthorized && len(s.tokens) > 0 && r.PathValue("part") == "" {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		}
		if p == nil {
			ctx, cancel := context.WithTimeout(r.Context(), renderWithin)
			defer cancel()
			req := &request{Request: r.WithContext(ctx), who: who, query: r.URL.Query()}
			if s.cfg.Backend != nil {
				req.backend = s.cfg.Backend()
			}
			p = s.told(r, show(w, req))
		}
		if p != nil {
			writePage(w, p.Status, "failure", p)
		}
	}))
}

// told returns the problem of an error, nil for none, and logs a fault of ours.
func (s *Server) told(r *http.Request, err error) *problem {
	if err == nil {
		return nil
	}
	p := problemOf(err)
	if p.Code == codeInternal {
		s.cfg.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	return p
}

// writePage answers with a template.
func writePage(w http.ResponseWriter, status int, name string, data any) {
	var out bytes.Buffer
	if err := uiTemplates.ExecuteTemplate(&out, name, data); err != nil {
		http.Error(w, "the page can't be shown: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // the peer has gone if this fails
}

// parts are what the page is made of, each by the name of its template.
var parts = map[string]func(*request) (any, error){
	"overview": showOverview, "deadletters": showDeadLetters, "pending": showPending, "attempts": showAttempts, "notices": showNotices,
}

// render returns a part as HTML.
func render(r *request, name string) (template.HTML, error) {
	if r.backend == nil {
		return "", unavailable("Backstop is starting; try again")
	}
	data, err := parts[name](r)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = uiTemplates.ExecuteTemplate(&out, name, map[string]any{"It": data, "Operate": r.who.role >= RoleOperate})
	return template.HTML(out.String()), err //nolint:gosec // a template made it
}

func onePart(w http.ResponseWriter, r *request) error {
	name := r.PathValue("part")
	if parts[name] == nil {
		return refusal(http.StatusNotFound, codeNotFound, "there is no such part of the page")
	}
	part, err := render(r, name)
	if err != nil {
		return err
	}
	writePage(w, http.StatusOK, "part", part)
	return nil
}

// wholePage shows every part, or in its place why it can't be shown.
func (s *Server) wholePage(w http.ResponseWriter, r *request) error {
	var mu sync.Mutex
	shown := make(map[string]template.HTML)
	var all sync.WaitGroup
	for name := range parts {
		all.Go(func() {
			part, err := render(r, name)
			if p := s.told(r.Request, err); p != nil {
				var out bytes.Buffer
				_ = uiTemplates.ExecuteTemplate(&out, "problem", p) // of texts alone
				part = template.HTML(out.String())                  //nolint:gosec // a template made it
			}
			mu.Lock()
			defer mu.Unlock()
			shown[name] = part
		})
	}
	all.Wait()
	_, err := r.Cookie(sessionCookie)
	writePage(w, http.StatusOK, "dashboard", map[string]any{
		"Parts": shown, "Who": r.who.name, "Role": r.who.role.String(), "Session": err == nil && len(s.tokens) > 0,
		"Query": r.query, "Reasons": streams.DeadLetterReasons(),
	})
	return nil
}

// with returns the request as if it had asked for a list with these parameters.
func (r *request) with(parameters map[string]string) *request {
	query := make(url.Values)
	for name, value := range parameters {
		query.Set(name, strings.TrimSpace(value))
	}
	return &request{Request: r.Request, backend: r.backend, who: r.who, query: query}
}

// How many rows the page shows of each.
const (
	shownLetters  = "15"
	shownPending  = "50"
	shownAttempts = "10"
	shownNotices  = "50"
)

// lettersView is the part with the dead letters.
type lettersView struct {
	Filter ops.Criteria
	page[ops.DeadLetter]
	// Later says that this isn't the first page.
	Later bool
}

func showDeadLetters(r *request) (any, error) {
	v := lettersView{Later: r.param("d-cursor") != ""}
	list := r.with(map[string]string{
		"app": r.param("d-app"), "capability": r.param("d-capability"), "reason": r.param("d-reason"),
		"cursor": r.param("d-cursor"), "order": "newest", "limit": shownLetters,
	})
	v.Filter = ops.Criteria{App: list.param("app"), Capability: list.param("capability"), Reason: list.param("reason")}
	var err error
	v.page, err = findDeadLetters(list)
	return v, err
}

func showPending(r *request) (any, error) {
	return findPending(r.with(map[string]string{"limit": shownPending}))
}

// attemptsView is the part with the delivery log.
type attemptsView struct {
	attemptPage
	Later bool
}

func showAttempts(r *request) (any, error) {
	found, err := findAttempts(r.with(map[string]string{
		"id": r.param("a-id"), "app": r.param("a-app"), "capability": r.param("a-capability"),
		"outcome": r.param("a-outcome"), "cursor": r.param("a-cursor"), "limit": shownAttempts,
	}))
	return attemptsView{found, r.param("a-cursor") != ""}, err
}

// noticesView is the part with the notices. The stream goes on behind Last.
type noticesView struct {
	page[streams.Notice]
	Last uint64
}

func showNotices(r *request) (any, error) {
	last, err := r.backend.Ops.Notices().Last(r.Context())
	if err != nil {
		return nil, err
	}
	list, err := findNotices(r.with(map[string]string{"limit": shownNotices}))
	if len(list.Items) > 0 {
		last = max(last, list.Items[0].Sequence) // it came in between
	}
	return noticesView{list, last}, err
}

// letterPage shows one dead letter with its payload.
func letterPage(w http.ResponseWriter, r *request) error {
	if r.backend == nil {
		return unavailable("Backstop is starting; try again")
	}
	sequence, err := strconv.ParseUint(r.PathValue("sequence"), 10, 64)
	if err != nil || sequence == 0 {
		return noDeadLetter()
	}
	d, err := r.backend.Ops.DeadLetters().Get(r.Context(), sequence)
	if err != nil {
		return gone(err)
	}
	writePage(w, http.StatusOK, "letter", map[string]any{"Letter": ops.View(d), "Payload": readable(d.Payload)})
	return nil
}

// loginPage asks for a token. Without any in the settings there is nothing to
// log in to.
func (s *Server) loginPage(w http.ResponseWriter, r *request) error {
	if len(s.tokens) == 0 {
		http.Redirect(w, r.Request, "/", http.StatusSeeOther)
		return nil
	}
	writePage(w, http.StatusOK, "login", "")
	return nil
}

// assetTypes are the files that pages ask for.
var assetTypes = map[string]string{"app.js": "text/javascript; charset=utf-8", "style.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}

// asset serves one of them. A browser asks each time whether it has changed, as
// it does with another version of Backstop.
func asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	kind, known := assetTypes[name]
	data, err := uiFiles.ReadFile("ui/" + name)
	if !known || err != nil {
		refuse(w, http.StatusNotFound, codeNotFound, "there is no such file")
		return
	}
	hash := sha256.Sum256(data)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", `"`+hex.EncodeToString(hash[:8])+`"`)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
}
