package admin

import (
	"errors"
	"net/http"
	"slices"
	"strings"
)

// route is one thing that the API does.
type route struct {
	method, path string
	// role is the least that may ask for it; 0 means that nobody is asked.
	role Role
	// query are the parameters that it takes.
	query []string
	// produces is the media type of its answer. Empty: application/json.
	produces string
	// bare says that it works before NATS is reached.
	bare   bool
	handle func(w http.ResponseWriter, r *request) error
}

// filters are the query parameters that select dead letters.
func filters(more ...string) []string {
	return append([]string{"app", "capability", "reason", "since", "until", "id"}, more...)
}

// routes lists everything under /api/v1 and the login. The OpenAPI document
// describes each of them, which a test compares.
func (s *Server) routes() []route {
	const v1 = "/api/v1"
	return []route{
		{method: "GET", path: v1 + "/openapi.json", bare: true, handle: serveOpenAPI},
		{method: "POST", path: "/login", bare: true, handle: s.login},
		{method: "POST", path: "/logout", bare: true, handle: s.logout},

		{method: "GET", path: v1 + "/apps", role: RoleRead, handle: listApps},
		{method: "GET", path: v1 + "/apps/{app}", role: RoleRead, handle: getApp},
		{method: "PUT", path: v1 + "/apps/{app}", role: RoleAdmin, handle: putApp},
		{method: "DELETE", path: v1 + "/apps/{app}", role: RoleAdmin, handle: deleteApp},
		{method: "POST", path: v1 + "/apps/{app}/rotate-secret", role: RoleAdmin, handle: rotateSecret},
		{method: "POST", path: v1 + "/apps/{app}/enable", role: RoleOperate, handle: enableEndpoints},
		{method: "POST", path: v1 + "/apps/{app}/disable", role: RoleOperate, handle: disableEndpoints},
		{method: "POST", path: v1 + "/apps/{app}/endpoints/{capability}/enable", role: RoleOperate, handle: enableEndpoints},
		{method: "POST", path: v1 + "/apps/{app}/endpoints/{capability}/disable", role: RoleOperate, handle: disableEndpoints},

		{method: "GET", path: v1 + "/dlq", role: RoleRead, query: filters("order", "limit", "cursor"), handle: listDeadLetters},
		{method: "GET", path: v1 + "/dlq/{id}", role: RoleRead, query: []string{"app", "capability"}, handle: getDeadLetters},
		{method: "POST", path: v1 + "/dlq/replay", role: RoleOperate, handle: s.replayDeadLetters},
		{method: "POST", path: v1 + "/dlq/discard", role: RoleOperate, handle: s.discardDeadLetters},

		{method: "GET", path: v1 + "/breakers", role: RoleRead, query: []string{"app", "capability"}, handle: listBreakers},
		{method: "POST", path: v1 + "/breakers/{app}/{capability}/open", role: RoleOperate, handle: openBreaker},
		{method: "POST", path: v1 + "/breakers/{app}/{capability}/reset", role: RoleOperate, handle: resetBreaker},

		{method: "GET", path: v1 + "/pending", role: RoleRead, query: []string{"state"}, handle: listPending},
		{method: "GET", path: v1 + "/pending/{id}", role: RoleRead, handle: getPending},
		{method: "POST", path: v1 + "/pending/{id}/approve", role: RoleOperate, handle: approvePending},
		{method: "POST", path: v1 + "/pending/{id}/reject", role: RoleOperate, handle: rejectPending},

		{
			method: "GET", path: v1 + "/attempts", role: RoleRead, handle: searchAttempts,
			query: []string{"app", "capability", "id", "outcome", "since", "until", "limit", "cursor"},
		},
		{method: "GET", path: v1 + "/overview", role: RoleRead, query: []string{"app"}, handle: getOverview},
		{method: "GET", path: v1 + "/alerts", role: RoleRead, handle: listAlerts},
		{method: "GET", path: v1 + "/notices", role: RoleRead, query: []string{"kind", "app", "capability", "limit", "cursor"}, handle: listNotices},
		{method: "GET", path: v1 + "/stream", role: RoleRead, query: []string{"after"}, produces: "text/event-stream", handle: s.streamNotices},
		{method: "GET", path: v1 + "/audit", role: RoleAdmin, query: []string{"what", "app", "capability", "by", "since", "limit", "cursor"}, handle: listAudit},
	}
}

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
	mux.HandleFunc("/api/", func(w http.ResponseWriter, _ *http.Request) {
		problem(http.StatusNotFound, codeNotFound, "there is nothing here; see /api/v1/openapi.json").write(w)
	})
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
		problem(http.StatusMethodNotAllowed, codeMethod, "%s is not allowed here", r.Method).with("Allow", strings.Join(allowed, ", ")).write(w)
	})
}

// serve carries out a route, unless something about the request is wrong.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, to route) {
	err := s.try(w, r, to)
	if err == nil {
		return
	}
	p := problemOf(err)
	var told *Problem
	if p.Status >= http.StatusInternalServerError && !errors.As(err, &told) {
		s.cfg.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	p.write(w)
}

func (s *Server) try(w http.ResponseWriter, r *http.Request, to route) error {
	who, refused := s.guard(r, to.role)
	if refused != nil {
		return refused
	}
	produces := to.produces
	if produces == "" {
		produces = "application/json"
	}
	if !accepts(r, produces) && strings.HasPrefix(to.path, "/api/") {
		return problem(http.StatusNotAcceptable, codeNotAcceptable, "the answer is %s, which Accept excludes", produces)
	}
	query, err := parseQuery(r, to.query)
	if err != nil {
		return err
	}
	req := &request{Request: r, who: who, query: query, backend: s.backend.Load()}
	if req.backend == nil && !to.bare {
		return problem(http.StatusServiceUnavailable, codeUnavailable, "starting: NATS is not reached yet").with("Retry-After", "1")
	}
	return to.handle(w, req)
}
