package admin

import (
	"net/http"
	"slices"

	"backstop/streams"
)

// listBreakers lists the endpoints that get no traffic, or only probes.
func listBreakers(w http.ResponseWriter, r *request) error {
	gates, err := r.backend.Ops.Gates(r.Context())
	if err != nil {
		return err
	}
	app, capability := r.param("app"), r.param("capability")
	gates = slices.DeleteFunc(gates, func(g streams.Gate) bool {
		return app != "" && g.App != app || capability != "" && g.Capability != capability
	})
	list, err := pageOf(r, gates, func(g streams.Gate) string { return g.ID().String() })
	if err != nil {
		return err
	}
	return reply(w, list)
}

func openBreaker(w http.ResponseWriter, r *request) error {
	id, why, err := decodeReason(w, r)
	if err != nil {
		return err
	}
	state, err := r.backend.Ops.OpenBreaker(r.Context(), r.actor(), id, why)
	if err != nil {
		return err
	}
	return reply(w, state)
}

func resetBreaker(w http.ResponseWriter, r *request) error {
	id, _, err := decodeReason(w, r)
	if err != nil {
		return err
	}
	state, err := r.backend.Ops.ResetBreaker(r.Context(), r.actor(), id)
	if err != nil {
		return err
	}
	return reply(w, state)
}
