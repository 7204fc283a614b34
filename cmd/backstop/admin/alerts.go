package admin

import "net/http"

// listAlerts lists the alerts that are raised now.
func listAlerts(w http.ResponseWriter, r *request) error {
	if r.backend.Alerts == nil {
		return missing("alerts")
	}
	raised, err := r.backend.Alerts.Raised(r.Context())
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, page[Alert]{Items: append([]Alert{}, raised...)})
}
