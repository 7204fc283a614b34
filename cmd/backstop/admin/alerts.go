package admin

import (
	"net/http"

	"backstop/streams"
)

// listAlerts lists the alerts that are raised. There are few: a page holds all.
func listAlerts(w http.ResponseWriter, r *request) error {
	alerts, err := r.backend.Ops.Alerts(r.Context())
	if err != nil {
		return err
	}
	return reply(w, page[streams.Alert]{Items: alerts})
}
