package admin

import (
	"net/http"
	"slices"
)

// route is one thing that the API does.
type route struct {
	method, path string
	// role is the least that may ask for it; 0 means that nobody is asked.
	role Role
	// query are the parameters that it takes.
	query []string
	// bare says that it works before NATS is reached.
	bare   bool
	handle func(w http.ResponseWriter, r *request) error
}

// routes lists everything under /api/v1 and the login. The OpenAPI document
// describes each of them, which a test compares.
func (s *Server) routes() []route {
	const v1 = "/api/v1"
	return []route{
		{method: "GET", path: v1 + "/openapi.json", bare: true, handle: serveOpenAPI},
		{method: "POST", path: "/login", bare: true, handle: s.login},
		{method: "POST", path: "/logout", bare: true, handle: s.logout},

		{method: "GET", path: v1 + "/apps", role: RoleRead, query: paged(), handle: listApps},
		{method: "GET", path: v1 + "/apps/{app}", role: RoleRead, handle: getApp},
		{method: "PUT", path: v1 + "/apps/{app}", role: RoleAdmin, handle: putApp},
		{method: "DELETE", path: v1 + "/apps/{app}", role: RoleAdmin, handle: deleteApp},
		{method: "POST", path: v1 + "/apps/{app}/rotate-secret", role: RoleAdmin, handle: rotateSecret},
		{method: "POST", path: v1 + "/apps/{app}/enable", role: RoleOperate, query: []string{"capability"}, handle: enableEndpoints},
		{method: "POST", path: v1 + "/apps/{app}/disable", role: RoleOperate, query: []string{"capability"}, handle: disableEndpoints},

		{method: "GET", path: v1 + "/dlq", role: RoleRead, query: paged("app", "capability", "reason", "since", "until", "order"), handle: listDeadLetters},
		{method: "GET", path: v1 + "/dlq/{id}", role: RoleRead, query: []string{"app", "capability"}, handle: getDeadLetter},
		{method: "GET", path: v1 + "/dlq-groups", role: RoleRead, query: []string{"app", "capability", "reason", "since", "until"}, handle: groupDeadLetters},
		{method: "POST", path: v1 + "/dlq/replay", role: RoleOperate, handle: s.replayDeadLetters},
		{method: "POST", path: v1 + "/dlq/discard", role: RoleOperate, handle: s.discardDeadLetters},

		{method: "GET", path: v1 + "/breakers", role: RoleRead, query: paged("app", "capability"), handle: listBreakers},
		{method: "POST", path: v1 + "/breakers/{app}/{capability}/open", role: RoleOperate, handle: openBreaker},
		{method: "POST", path: v1 + "/breakers/{app}/{capability}/reset", role: RoleOperate, handle: resetBreaker},

		{method: "GET", path: v1 + "/pending", role: RoleRead, query: paged("state"), handle: listPending},
		{method: "GET", path: v1 + "/pending/{id}", role: RoleRead, handle: getPending},
		{method: "POST", path: v1 + "/pending/{id}/approve", role: RoleOperate, handle: approvePending},
		{method: "POST", path: v1 + "/pending/{id}/reject", role: RoleOperate, handle: rejectPending},

		{
			method: "GET", path: v1 + "/attempts", role: RoleRead,
			query: paged("app", "capability", "id", "outcome", "since", "until"), handle: searchAttempts,
		},
		{method: "GET", path: v1 + "/overview", role: RoleRead, query: []string{"app"}, handle: getOverview},
		{method: "GET", path: v1 + "/alerts", role: RoleRead, handle: listAlerts},
		{method: "GET", path: v1 + "/notices", role: RoleRead, query: paged("kind", "app", "capability"), handle: listNotices},
		{method: "GET", path: v1 + "/stream", role: RoleRead, query: []string{"after"}, handle: s.streamNotices},
		{method: "GET", path: v1 + "/audit", role: RoleAdmin, query: paged("what", "app", "capability", "by", "since"), handle: listAudit},
	}
}

// paged returns the query parameters of a list.
func paged(more ...string) []string { return append(more, "limit", "cursor") }

// api serves the routes. The mux finds the path alone, so that a method that a
// path doesn't have is told as a problem, like everything else.
func (s *Server) api() *http.ServeMux {
	byPath := make(map[string][]route)
	for _, r := range s.routes() {
		byPath[r.path] = append(byPath[r.path], r)
	}
	mux := http.NewServeMux()
	for path, routes := range byPath {
		mux.Handle(path, s.resource(routes))
	}
	return mux
}

// resource serves all methods of one path.
func (s *Server) resource(routes []route) http.Handler {
	var allowed []string
	for _, r := range routes {
		allowed = append(allowed, r.method)
		if r.method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	slices.Sort(allowed)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		for _, candidate := range routes {
			if candidate.method == method {
				s.serve(w, r, candidate)
				return
			}
		}
		wrongMethod(r, allowed...).write(w)
	})
}

// serve carries out a route, unless something about the request is wrong.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, to route) {
	err := s.try(w, r, to)
	if err == nil {
		return
	}
	p := problemOf(err)
	if p.Code == codeInternal {
		s.cfg.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	p.write(w)
}

func (s *Server) try(w http.ResponseWriter, r *http.Request, to route) error {
	who, refused := s.guard(r, to.role)
	if refused != nil {
		return refused
	}
	query, err := parseQuery(r, to.query)
	if err != nil {
		return err
	}
	req := &request{Request: r, who: who, query: query}
	if s.cfg.Backend != nil {
		req.backend = s.cfg.Backend()
	}
	if req.backend == nil && !to.bare {
		return unavailable("Backstop is starting; try again")
	}
	return to.handle(w, req)
}
