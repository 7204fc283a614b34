package admin

import (
	"errors"
	"net/http"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
	"backstop/streams/manifest"
	"backstop/streams/secrets"
)

func listApps(w http.ResponseWriter, r *request) error {
	all, err := r.backend.Ops.Apps(r.Context())
	if err != nil {
		return err
	}
	list, err := pageOf(r, all, func(a ops.App) string { return a.AppID })
	if err != nil {
		return err
	}
	return reply(w, list)
}

// pathApp returns the app of the path. What can't be a name names no app.
func pathApp(r *request) (string, error) {
	app := r.PathValue("app")
	if !streams.ValidName(app) {
		return "", refusal(http.StatusNotFound, codeNotFound, "%v", streams.CheckName("app", app))
	}
	return app, nil
}

// getApp answers with the manifest, fit to be edited and put again.
func getApp(w http.ResponseWriter, r *request) error {
	app, err := pathApp(r)
	if err != nil {
		return err
	}
	m, revision, err := r.backend.Ops.Manifest(r.Context(), app)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(revision))
	if header := r.Header.Get("If-None-Match"); header != "" {
		if known, err := matches(header, revision); err == nil && known {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	return reply(w, m)
}

// putApp adds an app, or changes it. Its secret is in the answer once.
func putApp(w http.ResponseWriter, r *request) error {
	app, err := pathApp(r)
	if err != nil {
		return err
	}
	data, err := readJSON(w, r.Request, manifest.MaxSize)
	if err != nil {
		return err
	}
	networks, err := r.backend.Ops.AllowedNetworks(r.Context())
	if err != nil {
		return err
	}
	m, err := manifest.Parse(data, manifest.Options{AllowedNetworks: networks})
	if err != nil {
		return err
	}
	if m.AppID != app {
		return manifest.Problems{{Pointer: "/appId", Message: "is " + m.AppID + ", while the path says " + app}}
	}
	condition, err := precondition(r, app)
	if err != nil {
		return err
	}
	result, err := r.backend.Ops.Apply(r.Context(), r.actor(), m, secrets.Secret{}, condition)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(result.Revision))
	if result.Created {
		w.Header().Set("Location", "/api/v1/apps/"+app)
		answer(w, http.StatusCreated, "application/json", result)
		return nil
	}
	return reply(w, result)
}

// precondition returns the revision that If-Match and If-None-Match ask for: 0
// means that there must be none, nil that anything goes.
func precondition(r *request, app string) (*uint64, error) {
	match, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
	if match == "" && none == "" {
		return nil, nil //nolint:nilnil // no condition is no error
	}
	_, now, err := r.backend.Ops.Manifest(r.Context(), app)
	if err != nil && !errors.Is(err, manifest.ErrNotFound) && !errors.As(err, new(manifest.Problems)) {
		return nil, err
	}
	for _, condition := range []struct {
		header string
		want   bool // whether the tags must match
	}{{match, true}, {none, false}} {
		if condition.header == "" {
			continue
		}
		matched, err := matches(condition.header, now)
		if err != nil {
			return nil, err
		}
		if matched != condition.want {
			return nil, manifest.ErrConflict
		}
	}
	return &now, nil
}

// deleteApp removes an app, its secrets and its gates. That there is none is
// what was asked for.
func deleteApp(w http.ResponseWriter, r *request) error {
	app, err := pathApp(r)
	if err != nil {
		return err
	}
	condition, err := precondition(r, app)
	if err != nil {
		return err
	}
	if err := r.backend.Ops.Remove(r.Context(), r.actor(), app, condition); err != nil && !errors.Is(err, manifest.ErrNotFound) {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// rotateSecret gives the app a new secret, which is in the answer once.
func rotateSecret(w http.ResponseWriter, r *request) error {
	app, err := pathApp(r)
	if err != nil {
		return err
	}
	var body struct {
		// GraceMs is how long the old secret stays active; 0 ends it at once.
		GraceMs *int64 `json:"graceMs"`
	}
	if err := r.decode(w, &body); err != nil {
		return err
	}
	grace := secrets.Grace
	if body.GraceMs != nil {
		const most = int64(30 * 24 * time.Hour / time.Millisecond)
		if *body.GraceMs < 0 || *body.GraceMs > most {
			return refusal(http.StatusUnprocessableEntity, codeInvalid, "graceMs: want milliseconds from 0 to %d", most)
		}
		grace = time.Duration(*body.GraceMs) * time.Millisecond
	}
	result, err := r.backend.Ops.RotateSecret(r.Context(), r.actor(), app, secrets.Secret{}, grace)
	if err != nil {
		return err
	}
	return reply(w, result)
}
