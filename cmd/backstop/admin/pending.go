package admin

import (
	"net/http"
	"slices"

	"backstop/streams"
)

// allStates is the value of the parameter state that selects every request.
const allStates = "all"

func listPending(w http.ResponseWriter, r *request) error {
	list, err := findPending(r)
	if err != nil {
		return err
	}
	return reply(w, list)
}

// findPending returns a page of the calls that wait for a person, or of those
// in another state, oldest first.
func findPending(r *request) (page[streams.PendingRequest], error) {
	state := streams.PendingState(r.param("state"))
	switch state {
	case "":
		state = streams.PendingWaiting
	case allStates, streams.PendingWaiting, streams.PendingApproved, streams.PendingRejected:
	default:
		return page[streams.PendingRequest]{}, badParameter("state", "%q: want waiting, approved, rejected or all", state)
	}
	all, err := r.backend.Ops.Pending(r.Context())
	if err != nil {
		return page[streams.PendingRequest]{}, err
	}
	all = slices.DeleteFunc(all, func(p streams.PendingRequest) bool { return state != allStates && p.State != state })
	return pageOf(r, all, func(p streams.PendingRequest) string {
		return p.CreatedAt.UTC().Format("2006-01-02T15:04:05.000000000") + p.Key() // in the order of the list
	})
}

func getPending(w http.ResponseWriter, r *request) error {
	call, err := r.backend.Ops.PendingCall(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return reply(w, call)
}

func approvePending(w http.ResponseWriter, r *request) error { return decidePending(w, r, true) }

func rejectPending(w http.ResponseWriter, r *request) error { return decidePending(w, r, false) }

func decidePending(w http.ResponseWriter, r *request, approve bool) error {
	var body because
	if err := r.decode(w, &body); err != nil {
		return err
	}
	if err := checkReason("reason", body.Reason); err != nil {
		return err
	}
	call, err := r.backend.Ops.DecidePending(r.Context(), r.actor(), r.PathValue("id"), approve, body.Reason)
	if err != nil {
		return err
	}
	return reply(w, call)
}
