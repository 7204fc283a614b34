package admin

import (
	"testing"
	"time"
)

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

// SetClock moves the clock of the sessions.
func (s *Server) SetClock(now func() time.Time) { s.sessions.now = now }

// Figures that tests need.
const (
	MaxStreams  = maxStreams
	SessionLife = sessionLife
	MaxBody     = maxBody
)

// SetDecideFor bounds requests that decide about dead letters, until the test ends.
func SetDecideFor(t *testing.T, d time.Duration) {
	t.Helper()
	before := decideFor
	decideFor = d
	t.Cleanup(func() { decideFor = before })
}

// What the dashboard writes texts with.
var (
	Spark    = sparkOf
	Readable = readable
	Plain    = plain
	MsText   = msText
	RateText = rateText
	Count    = countText
)
