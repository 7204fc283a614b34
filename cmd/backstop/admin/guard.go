package admin

import "net/http"

// guard decides whether a request may be carried out, and by whom.
//
// A token in a header is proof enough. What the browser adds unasked is not:
// there the request must be meant for us (Host) and come from our own page
// (Sec-Fetch-Site, Origin).
func (s *Server) guard(r *http.Request, needed Role) (identity, *problem) {
	if r.Header.Get("Authorization") == "" {
		if p := s.ownPage(r); p != nil {
			return identity{}, p
		}
	}
	if err := s.crossOrigin.Check(r); err != nil {
		return identity{}, refusal(http.StatusForbidden, codeCrossOrigin, "the request comes from another site's page")
	}
	if needed == 0 {
		return identity{}, nil
	}
	who, p := s.authenticate(r)
	if p != nil {
		return identity{}, p
	}
	if who.role < needed {
		return identity{}, refusal(http.StatusForbidden, codeForbidden, "%s has the role %s; this needs %s", who.name, who.role, needed)
	}
	return who, nil
}

// ownPage refuses what another site's page could have made the browser ask.
func (s *Server) ownPage(r *http.Request) *problem {
	if !s.hosts.allowed(r) {
		return refusal(http.StatusForbidden, codeHost,
			"this server is not reached as %q; set BACKSTOP_PUBLIC_URL or BACKSTOP_HTTP_HOSTS if it should be, or send a token", r.Host)
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none": // "": no browser, or an old one
		return nil
	default:
		if r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Method == http.MethodGet {
			return nil // a link to us
		}
		return refusal(http.StatusForbidden, codeCrossOrigin, "the request comes from another site's page")
	}
}

// secureHeaders are on every answer.
func secureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		next.ServeHTTP(w, r)
	})
}
