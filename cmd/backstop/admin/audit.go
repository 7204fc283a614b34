package admin

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// listAudit lists who changed what, newest first.
func listAudit(w http.ResponseWriter, r *request) error {
	limit, err := r.limit()
	if err != nil {
		return err
	}
	cursor, err := r.cursor()
	if err != nil {
		return err
	}
	what := r.param("what")
	if strings.ContainsAny(what, ".*> \t\r\n") {
		return badParameter("what", "%q: want one kind of change", what)
	}
	filter := streams.AuditFilter{
		What: streams.AuditWhat(what), App: r.param("app"), Capability: r.param("capability"), By: r.param("by"), Before: cursor,
	}
	if filter.Since, err = ops.PointInTime(time.Now(), r.param("since")); err != nil {
		return badParameter("since", "%v", err)
	}
	list := page[streams.AuditEntry]{Items: []streams.AuditEntry{}}
	for e, err := range r.backend.Ops.Audit().Entries(r.Context(), filter) {
		if err != nil {
			return err
		}
		if len(list.Items) == limit {
			list.NextCursor = strconv.FormatUint(list.Items[limit-1].Sequence, 10)
			break
		}
		list.Items = append(list.Items, e)
	}
	return reply(w, http.StatusOK, list)
}
