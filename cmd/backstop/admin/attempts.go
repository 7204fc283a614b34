package admin

import (
	"net/http"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// attemptPage is a page of the delivery log.
type attemptPage struct {
	page[streams.Attempt]
	// Partial says that the page is not full because the search was stopped
	// after as many entries as one request may read; nextCursor goes on.
	Partial bool `json:"partial,omitempty"`
}

func searchAttempts(w http.ResponseWriter, r *request) error {
	extend(w, answerFor)
	found, err := findAttempts(r)
	if err != nil {
		return err
	}
	return reply(w, found)
}

// findAttempts searches the delivery log, newest first.
func findAttempts(r *request) (attemptPage, error) {
	q := streams.AttemptQuery{AttemptFilter: streams.AttemptFilter{
		App: r.param("app"), Capability: r.param("capability"), ID: r.param("id"), Outcome: r.param("outcome"),
	}}
	for name, value := range map[string]string{"app": q.App, "capability": q.Capability} {
		if value != "" && !streams.ValidName(value) {
			return attemptPage{}, badParameter(name, "%v", streams.CheckName(name, value))
		}
	}
	var err error
	if q.Limit, err = r.limit(); err != nil {
		return attemptPage{}, err
	}
	if q.Cursor, err = r.sequence(); err != nil {
		return attemptPage{}, err
	}
	now := time.Now()
	for name, at := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		if *at, err = ops.PointInTime(now, r.param(name)); err != nil {
			return attemptPage{}, badParameter(name, "%v", err)
		}
	}
	found, err := r.backend.Ops.Attempts().Search(r.Context(), q)
	if err != nil {
		return attemptPage{}, err
	}
	p := attemptPage{page: page[streams.Attempt]{Items: append([]streams.Attempt{}, found.Attempts...)}, Partial: found.Partial}
	if found.Next != 0 {
		p.NextCursor = sequenceCursor(found.Next)
	}
	return p, nil
}
