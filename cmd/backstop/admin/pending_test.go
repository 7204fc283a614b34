package admin_test

import (
	"strings"
	"testing"

	"backstop/cmd/backstop/admin"
	"backstop/streams"
)

func TestPending(t *testing.T) {
	b := start(t, admin.Config{})
	kv, err := b.js.KeyValue(t.Context(), streams.PendingBucket)
	b.must(err)
	for _, key := range []struct{ app, id string }{{"quiz", "p1"}, {"quiz", "p2"}, {"quiz", "twice"}, {"shop", "twice"}} {
		_, err := streams.NewPendings(kv).Create(t.Context(), streams.PendingRequest{
			ID: key.id, App: key.app, Capability: "participantRegistration", Reason: "timeout", Payload: []byte(`{"name":"<b>"}`),
		})
		b.must(err)
	}
	const path = "/api/v1/pending"
	if a := b.want(200, "", "GET", path, ""); strings.Count(a.body, `"waiting"`) != 4 {
		t.Errorf("pending: %s", a.body)
	}
	if a := b.want(200, "", "POST", path+"/p1/approve", `{"reason":"a regular"}`, "X-Operator: ann"); !strings.Contains(a.body, `"state":"approved","decidedBy":"ann"`) {
		t.Errorf("approved: %s", a.body)
	}
	if a := b.want(409, "already_decided", "POST", path+"/p1/reject", ""); !strings.Contains(a.body, "by ann") {
		t.Errorf("decided twice: %s", a.body)
	}
	b.want(200, "", "POST", path+"/p2/reject", "")
	b.want(200, "", "GET", path+"/p2", "")
	b.want(404, "not_found", "POST", path+"/p9/reject", "")
	b.want(404, "not_found", "GET", path+"/p9", "")
	b.want(409, "ambiguous", "POST", path+"/twice/approve", "")
	b.want(200, "", "POST", path+"/participantRegistration.shop.twice/approve", "")
	b.want(422, "invalid_request", "POST", path+"/p2/approve", `{"reason":"`+strings.Repeat("x", 501)+`"}`)

	// In the order in which they came, page by page.
	var all []string
	cursor := ""
	for range 4 {
		var p struct {
			Items      []struct{ App, ID string }
			NextCursor string
		}
		b.want(200, "", "GET", path+"?state=all&limit=3"+cursor, "").decode(t, &p)
		for _, r := range p.Items {
			all = append(all, r.ID+"@"+r.App)
		}
		if cursor = "&cursor=" + p.NextCursor; p.NextCursor == "" {
			break
		}
	}
	if got := strings.Join(all, " "); got != "p1@quiz p2@quiz twice@quiz twice@shop" {
		t.Errorf("all: %s", got)
	}
	if a := b.want(200, "", "GET", path+"?state=rejected", ""); strings.Count(a.body, `"id"`) != 1 {
		t.Errorf("rejected: %s", a.body)
	}
	b.want(400, "bad_query", "GET", path+"?state=open", "")
	if audit := b.recorded(); strings.Count(audit, "\n") != 3 ||
		!strings.Contains(audit, `"what":"pending_approved","app":"quiz","capability":"participantRegistration","id":"p1","why":"a regular"`) {
		t.Errorf("audit: %s", audit)
	}
}
