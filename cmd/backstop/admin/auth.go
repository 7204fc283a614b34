package admin

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// identity is who makes a request.
type identity struct {
	name string
	role Role
}

// HeaderOperator names the operator of a request without a token, for the
// record.
const HeaderOperator = "X-Operator"

// loopbackName is the operator on this machine who gives no name in
// HeaderOperator.
const loopbackName = "loopback"

// maxOperator is the most characters of an operator's name.
const maxOperator = 64

// checkOperator returns why a name can't go on record.
func checkOperator(name string) error {
	if name == "" || len([]rune(name)) > maxOperator || strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) >= 0 {
		return fmt.Errorf("want 1 to %d printable characters", maxOperator)
	}
	return nil
}

// authenticate tells who makes a request. Without any token in the settings
// everybody on this machine may do everything; with one, nobody may do
// anything without.
func (s *Server) authenticate(r *http.Request) (identity, *problem) {
	if header := r.Header.Get("Authorization"); header != "" {
		return s.byToken(header)
	}
	if who, ok := s.sessions.identify(r); ok {
		return who, nil
	}
	if len(s.tokens) > 0 {
		return identity{}, unauthorized("send the header Authorization: Bearer and a token, or log in")
	}
	if !local(r) {
		return identity{}, unauthorized("without a token only this machine may; set BACKSTOP_ADMIN_TOKEN, and send it as Authorization: Bearer")
	}
	who := identity{name: loopbackName, role: RoleAdmin}
	if name := r.Header.Get(HeaderOperator); name != "" {
		if err := checkOperator(name); err != nil {
			return identity{}, refusal(http.StatusBadRequest, codeInvalid, "%s: %v", HeaderOperator, err)
		}
		who.name = name
	}
	return who, nil
}

func (s *Server) byToken(header string) (identity, *problem) {
	scheme, presented, _ := strings.Cut(header, " ")
	if token, ok := find(s.tokens, presented); ok && strings.EqualFold(scheme, "Bearer") {
		return identity{name: token.Name, role: token.Role}, nil
	}
	return identity{}, unauthorized("the token is not known")
}

func unauthorized(detail string) *problem {
	return refusal(http.StatusUnauthorized, codeUnauthorized, "%s", detail).with("WWW-Authenticate", `Bearer realm="backstop"`)
}

// local tells whether a request comes from this machine itself, and not
// through a proxy on it that has spoken to somebody else.
func local(r *http.Request) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}
