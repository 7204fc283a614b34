package admin

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// outcomes are the verdicts of attempts.
func outcomes() []string { return []string{"delivered", "retry", "rejected", "refused"} }

func searchAttempts(w http.ResponseWriter, r *request) error {
	if r.backend.Attempts == nil {
		return missing("search of the delivery log")
	}
	limit, err := r.limit()
	if err != nil {
		return err
	}
	q := AttemptQuery{
		App: r.param("app"), Capability: r.param("capability"), ID: r.param("id"), Outcome: r.param("outcome"),
		Limit: limit, Cursor: r.param("cursor"),
	}
	for name, value := range map[string]string{"app": q.App, "capability": q.Capability} {
		if value != "" && !streams.ValidName(value) {
			return badParameter(name, "%v", streams.CheckName(name, value))
		}
	}
	if q.Outcome != "" && !slices.Contains(outcomes(), q.Outcome) {
		return badParameter("outcome", "%q: want one of %s", q.Outcome, strings.Join(outcomes(), ", "))
	}
	now := time.Now()
	if q.Since, err = ops.PointInTime(now, r.param("since")); err != nil {
		return badParameter("since", "%v", err)
	}
	if q.Until, err = ops.PointInTime(now, r.param("until")); err != nil {
		return badParameter("until", "%v", err)
	}
	found, err := r.backend.Attempts.Search(r.Context(), q)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, page[streams.Attempt]{Items: append([]streams.Attempt{}, found.Attempts...), NextCursor: found.Next})
}
