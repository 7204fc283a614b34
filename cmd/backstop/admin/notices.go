package admin

import (
	"net/http"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

func listNotices(w http.ResponseWriter, r *request) error {
	list, err := findNotices(r)
	if err != nil {
		return err
	}
	return reply(w, list)
}

// findNotices returns a page of notices, newest first.
func findNotices(r *request) (page[streams.Notice], error) {
	kind, err := r.token("kind")
	if err != nil {
		return page[streams.Notice]{}, err
	}
	before, err := r.sequence()
	if err != nil {
		return page[streams.Notice]{}, err
	}
	filter := streams.NoticeFilter{Kind: streams.NoticeKind(kind), App: r.param("app"), Capability: r.param("capability"), Before: before}
	return pageOfStored(r, r.backend.Ops.Notices().SelectNewest(r.Context(), filter), func(n streams.Notice) uint64 { return n.Sequence })
}

// listAudit lists who changed what, newest first.
func listAudit(w http.ResponseWriter, r *request) error {
	what, err := r.token("what")
	if err != nil {
		return err
	}
	filter := streams.AuditFilter{What: streams.AuditWhat(what), App: r.param("app"), Capability: r.param("capability"), By: r.param("by")}
	if filter.Before, err = r.sequence(); err != nil {
		return err
	}
	if filter.Since, err = ops.PointInTime(time.Now(), r.param("since")); err != nil {
		return badParameter("since", "%v", err)
	}
	list, err := pageOfStored(r, r.backend.Ops.Audit().Newest(r.Context(), filter), func(e streams.AuditEntry) uint64 { return e.Sequence })
	if err != nil {
		return err
	}
	return reply(w, list)
}
