package admin

import (
	"net/http"
	"strconv"
	"strings"

	"backstop/streams"
)

// listNotices lists notices, newest first.
func listNotices(w http.ResponseWriter, r *request) error {
	limit, err := r.limit()
	if err != nil {
		return err
	}
	cursor, err := r.cursor()
	if err != nil {
		return err
	}
	kind := r.param("kind")
	if strings.ContainsAny(kind, ".*> \t\r\n") {
		return badParameter("kind", "%q: want one kind", kind)
	}
	filter := streams.NoticeFilter{Kind: streams.NoticeKind(kind), App: r.param("app"), Capability: r.param("capability"), Before: cursor}
	list := page[streams.StoredNotice]{Items: []streams.StoredNotice{}}
	for n, err := range r.backend.Ops.Notices().Newest(r.Context(), filter) {
		if err != nil {
			return err
		}
		if len(list.Items) == limit {
			list.NextCursor = strconv.FormatUint(list.Items[limit-1].Sequence, 10)
			break
		}
		list.Items = append(list.Items, n)
	}
	return reply(w, http.StatusOK, list)
}
