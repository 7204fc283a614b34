package admin

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A browser logs in once, with a token, and then shows a cookie that only
// Backstop can have made: the name of the token, when the session ends, and a
// signature over both. Nothing is kept on this side, so that every replica with
// the same tokens takes the cookie, and a token that is changed or taken away
// ends its sessions.

// sessionCookie is the name of the cookie.
const sessionCookie = "backstop_session"

// sessionLife is how long a login lasts.
const sessionLife = 12 * time.Hour

// sessions makes and checks cookies.
type sessions struct {
	now    func() time.Time
	tokens []Token
	keys   map[string][]byte // by the name of the token
}

// newSessions derives a key for each token from the admin token, which nobody
// else knows, and the token's own hash. Without an admin token the keys are
// good for this process alone.
func newSessions(adminToken string, tokens []Token) (*sessions, error) {
	secret := []byte(adminToken)
	if len(secret) == 0 {
		secret = make([]byte, sha256.Size)
		rand.Read(secret) // never fails
	}
	s := &sessions{now: time.Now, tokens: tokens, keys: make(map[string][]byte)}
	for _, t := range tokens {
		key, err := hkdf.Key(sha256.New, secret, t.Hash[:], "backstop session", sha256.Size)
		if err != nil {
			return nil, err
		}
		s.keys[t.Name] = key
	}
	return s, nil
}

// issue returns the value of a cookie for a token's owner.
func (s *sessions) issue(t Token) (value string, ends time.Time) {
	ends = s.now().Add(sessionLife)
	claim := base64.RawURLEncoding.EncodeToString([]byte(t.Name)) + "." + strconv.FormatInt(ends.Unix(), 10)
	return claim + "." + base64.RawURLEncoding.EncodeToString(s.sign(t.Name, claim)), ends
}

func (s *sessions) sign(name, claim string) []byte {
	mac := hmac.New(sha256.New, s.keys[name])
	mac.Write([]byte(claim))
	return mac.Sum(nil)
}

// identify returns whose session a request belongs to.
func (s *sessions) identify(r *http.Request) (identity, bool) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return identity{}, false
	}
	parts := strings.Split(cookie.Value, ".")
	if len(parts) != 3 {
		return identity{}, false
	}
	name, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		return identity{}, false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return identity{}, false
	}
	for _, t := range s.tokens {
		if t.Name != string(name) {
			continue
		}
		if !hmac.Equal(signature, s.sign(t.Name, parts[0]+"."+parts[1])) {
			return identity{}, false
		}
		ends, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil || !s.now().Before(time.Unix(ends, 0)) {
			return identity{}, false
		}
		return identity{name: t.Name, role: t.Role}, true
	}
	return identity{}, false
}

// login takes a token and answers with the cookie: to a program with JSON, and
// to the form of the login page with the way to the dashboard.
func (s *Server) login(w http.ResponseWriter, r *request) error {
	if isForm(r.Request) {
		s.loginForm(w, r.Request)
		return nil
	}
	var body struct {
		Token string `json:"token"`
	}
	if err := r.decode(w, &body); err != nil {
		return err
	}
	token, ok := find(s.tokens, body.Token)
	if !ok {
		return unauthorized("the token is not known")
	}
	value, ends := s.sessions.issue(token)
	s.setCookie(w, r.Request, value, int(sessionLife.Seconds()))
	return reply(w, session{Name: token.Name, Role: token.Role.String(), Ends: ends.UTC().Truncate(time.Second)})
}

func (s *Server) loginForm(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", uiPolicy)
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	token, ok := find(s.tokens, strings.TrimSpace(r.PostFormValue("token")))
	if !ok {
		writePage(w, http.StatusUnauthorized, "login", "This token is not known.")
		return
	}
	value, _ := s.sessions.issue(token)
	s.setCookie(w, r, value, int(sessionLife.Seconds()))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// isForm tells whether a request was sent by a form of ours, which no script
// has to be there for.
func isForm(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "application/x-www-form-urlencoded"
}

// session is the answer to a login.
type session struct {
	Name string    `json:"name"`
	Role string    `json:"role"`
	Ends time.Time `json:"ends"`
}

// logout makes this browser forget its session.
func (s *Server) logout(w http.ResponseWriter, r *request) error {
	s.setCookie(w, r.Request, "", -1)
	if isForm(r.Request) {
		http.Redirect(w, r.Request, "/login", http.StatusSeeOther)
		return nil
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) setCookie(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure where the browser speaks TLS; on loopback it does not
		Name: sessionCookie, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: s.hosts.secure(r),
	})
}
