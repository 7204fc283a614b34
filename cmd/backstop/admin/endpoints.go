package admin

import (
	"net/http"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// because is the body of what an operator gives a reason for.
type because struct {
	Reason string `json:"reason"`
}

// pathEndpoint returns the endpoint of the path; it has no capability where
// the path has none.
func pathEndpoint(r *request) (streams.EndpointID, error) {
	app, err := pathApp(r)
	if err != nil {
		return streams.EndpointID{}, err
	}
	capability := r.PathValue("capability")
	if capability != "" && !streams.ValidName(capability) {
		return streams.EndpointID{}, refusal(http.StatusNotFound, codeNotFound, "%v", streams.CheckName("capability", capability))
	}
	return streams.EndpointID{App: app, Capability: capability}, nil
}

// decodeReason returns the endpoint of the path and the reason in the body.
func decodeReason(w http.ResponseWriter, r *request) (streams.EndpointID, string, error) {
	id, err := pathEndpoint(r)
	if err != nil {
		return id, "", err
	}
	var body because
	if err := r.decode(w, &body); err != nil {
		return id, "", err
	}
	return id, body.Reason, checkReason("reason", body.Reason)
}

// switchedEndpoint returns the endpoint that is switched on or off, or all of
// the app's when the query names no capability.
func switchedEndpoint(w http.ResponseWriter, r *request) (streams.EndpointID, string, error) {
	id, why, err := decodeReason(w, r)
	if id.Capability = r.param("capability"); err == nil && id.Capability != "" && !streams.ValidName(id.Capability) {
		err = badParameter("capability", "%v", streams.CheckName("capability", id.Capability))
	}
	return id, why, err
}

func disableEndpoints(w http.ResponseWriter, r *request) error {
	id, why, err := switchedEndpoint(w, r)
	if err != nil {
		return err
	}
	changes, err := r.backend.Ops.Disable(r.Context(), r.actor(), id, why)
	if err != nil {
		return err
	}
	return reply(w, page[ops.GateState]{Items: changes})
}

func enableEndpoints(w http.ResponseWriter, r *request) error {
	id, _, err := switchedEndpoint(w, r)
	if err != nil {
		return err
	}
	changes, err := r.backend.Ops.Enable(r.Context(), r.actor(), id)
	if err != nil {
		return err
	}
	return reply(w, page[ops.GateState]{Items: changes})
}
