package admin

import "time"

// Route is what a test sees of a route.
type Route struct {
	Method, Path string
	Role         Role
	Query        []string
}

// Routes lists the routes of any server.
func Routes() []Route {
	var list []Route
	for _, r := range (&Server{}).routes() {
		list = append(list, Route{r.method, r.path, r.role, r.query})
	}
	return list
}

// OpenAPI is the document.
func OpenAPI() []byte { return openAPI }

// SetClock moves the server's clocks: of sessions and of failed logins.
func (s *Server) SetClock(now func() time.Time) { s.sessions.now, s.failures.now = now, now }

// Figures that tests need.
const (
	MaxStreams   = maxStreams
	FailureBurst = failureBurst
	SessionLife  = sessionLife
	MaxBody      = maxBody
)
