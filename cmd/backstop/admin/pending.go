package admin

import (
	"net/http"

	"backstop/streams"
)

func listPending(w http.ResponseWriter, r *request) error {
	if r.backend.Pending == nil {
		return missing("pending calls")
	}
	state := r.param("state")
	switch state {
	case "":
		state = "waiting"
	case "all":
		state = ""
	case "waiting", "approved", "rejected":
	default:
		return badParameter("state", "%q: want waiting, approved, rejected or all", state)
	}
	calls, err := r.backend.Pending.List(r.Context(), state)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, page[PendingCall]{Items: append([]PendingCall{}, calls...)})
}

func getPending(w http.ResponseWriter, r *request) error {
	if r.backend.Pending == nil {
		return missing("pending calls")
	}
	call, err := r.backend.Pending.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, call)
}

func approvePending(w http.ResponseWriter, r *request) error {
	return decidePending(w, r, true, streams.AuditPendingApproved)
}

func rejectPending(w http.ResponseWriter, r *request) error {
	return decidePending(w, r, false, streams.AuditPendingRejected)
}

func decidePending(w http.ResponseWriter, r *request, approve bool, what streams.AuditWhat) error {
	if r.backend.Pending == nil {
		return missing("pending calls")
	}
	var body because
	if err := r.decode(w, &body); err != nil {
		return err
	}
	if err := checkReason("reason", body.Reason); err != nil {
		return err
	}
	call, err := r.backend.Pending.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if call.State != "waiting" {
		return ErrPendingDecided
	}
	entry := streams.AuditEntry{What: what, App: call.App, Capability: call.Capability, ID: call.ID, Why: body.Reason}
	err = r.backend.Ops.Change(r.Context(), r.actor(), entry, func() error {
		call, err = r.backend.Pending.Decide(r.Context(), call.ID, approve, r.who.name, body.Reason)
		return err
	})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, call)
}
