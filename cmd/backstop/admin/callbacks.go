package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
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
	// retryAfter is what such an app is told to wait, in seconds.
	retryAfter = "5"
)

// The codes of refused callbacks.
const (
	codeNotFound    = "not_found"
	codeExpired     = "expired"
	codeMethod      = "method_not_allowed"
	codeContentType = "unsupported_content_type"
	codeTooLarge    = "payload_too_large"
	codeBadPayload  = "bad_payload"
	codeSignature   = "bad_signature"
	codeUnavailable = "unavailable"
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
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, codeMethod, "a callback is a POST")
		return
	}
	var c *Callbacks
	if s.cfg.Callbacks != nil {
		c = s.cfg.Callbacks()
	}
	if c == nil {
		unavailable(w, "Backstop is starting; send the callback again")
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
	body, ok := readCallback(w, r)
	if !ok {
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
		unavailable(w, "the result can't be stored at the moment; send the callback again")
		return
	}
	answer(w, http.StatusOK, "application/json", accepted{Accepted: true, ID: grant.ID})
}

func unavailable(w http.ResponseWriter, detail string) {
	w.Header().Set("Retry-After", retryAfter)
	refuse(w, http.StatusServiceUnavailable, codeUnavailable, detail)
}

// readCallback reads the body, and answers itself when it isn't one.
func readCallback(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if !isJSON(r.Header) {
		refuse(w, http.StatusUnsupportedMediaType, codeContentType, "send JSON, with Content-Type: application/json or none, and without Content-Encoding")
		return nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallback))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		refuse(w, http.StatusRequestEntityTooLarge, codeTooLarge, fmt.Sprintf("a callback may have at most %d bytes", large.Limit))
	case err != nil:
		refuse(w, http.StatusBadRequest, codeBadPayload, "the body did not arrive whole")
	case len(body) == 0:
		refuse(w, http.StatusBadRequest, codeBadPayload, "the body is empty; it has to be JSON")
	case !json.Valid(body):
		refuse(w, http.StatusBadRequest, codeBadPayload, "the body is not JSON")
	default:
		return body, true
	}
	return nil, false
}

// isJSON tells whether a request's headers let its body be JSON as it stands.
func isJSON(h http.Header) bool {
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return false
	}
	given := h.Get("Content-Type")
	if given == "" {
		return true
	}
	kind, _, err := mime.ParseMediaType(given)
	return err == nil && (kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"))
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
