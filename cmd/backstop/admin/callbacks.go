package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"backstop/dispatcher/callback"
	"backstop/dispatcher/sign"
	"backstop/streams"
)

// Callbacks is what POST /callbacks/{token} needs. All fields are required.
type Callbacks struct {
	// Issuer reads tokens.
	Issuer *callback.Issuer
	// Secrets returns the app's active secrets; none for an app without.
	Secrets func(app string) []string
	// Accept stores a result, once however often it is called for the same
	// event; see streams.Callbacks. An error means that it may not be stored.
	Accept func(ctx context.Context, r streams.Result, awaited bool) error
}

const (
	// maxCallback is the most that a callback's body may have.
	maxCallback = 64 << 10
	// acceptWithin is how long storing may take. A broker that is away for
	// longer makes the app send its callback again.
	acceptWithin = 8 * time.Second
)

// accepted is the answer to a callback and to its repetitions.
type accepted struct {
	Accepted bool   `json:"accepted"`
	ID       string `json:"id"`
}

// callbacks takes what apps answer later. The token in the path is the
// permission, so the path goes into no log and no answer.
//
// Nothing that is refused uses the token up: only a stored result does, and
// then the same answer is given as often as it is asked for.
func (s *Server) callbacks(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		wrongMethod(r, http.MethodPost).write(w)
		return
	}
	var c *Callbacks
	if s.cfg.Callbacks != nil {
		c = s.cfg.Callbacks()
	}
	if c == nil {
		unavailable("Backstop is starting; send the callback again").write(w)
		return
	}
	grant, err := c.Issuer.Read(r.PathValue("token"), time.Now())
	switch {
	case errors.Is(err, callback.ErrExpired):
		refuse(w, http.StatusGone, codeExpired, err.Error())
		return
	case err != nil:
		refuse(w, http.StatusNotFound, codeNotFound, err.Error())
		return
	}
	body, err := readJSON(w, r, maxCallback)
	if err == nil && body == nil {
		err = refusal(http.StatusBadRequest, codeBadPayload, "the body is empty; it has to be JSON")
	}
	if err != nil {
		problemOf(err).write(w)
		return
	}
	if err := verify(r.Header, body, time.Now(), c.Secrets(grant.App)); err != nil {
		refuse(w, http.StatusUnauthorized, codeSignature, err.Error())
		return
	}
	// What began is finished even if the app hangs up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), acceptWithin)
	defer cancel()
	err = c.Accept(ctx, streams.Result{
		ID: grant.ID, EndpointID: streams.EndpointID{Capability: grant.Capability, App: grant.App},
		Kind: streams.ResultCallback, Origin: grant.Origin, Payload: body,
	}, grant.Awaited)
	if err != nil {
		s.cfg.Log.Warn("a callback could not be stored; its app was told to send it again", "app", grant.App, "capability", grant.Capability, "error", err)
		unavailable("the result can't be stored at the moment; send the callback again").write(w)
		return
	}
	answer(w, http.StatusOK, "application/json", accepted{Accepted: true, ID: grant.ID})
}

// verify checks each signature that the request carries; one without any is
// fine, as the token is the permission.
func verify(h http.Header, body []byte, now time.Time, secrets []string) error {
	if len(h.Values(sign.HeaderPlatform)) > 0 {
		if err := sign.VerifyPlatform(h, body, secrets...); err != nil {
			return err
		}
	}
	if len(h.Values(sign.HeaderSignature)) > 0 {
		return sign.Verify(h, body, now, secrets...)
	}
	return nil
}
