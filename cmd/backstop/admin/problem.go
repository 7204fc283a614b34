package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
	"backstop/streams/manifest"
)

// problem is an error answer as RFC 9457 has it, and the error that a handler
// of the API returns for it. Type is always "about:blank": Title is the
// status's own, and Code tells programs the rest.
type problem struct {
	Type   string `json:"type"`
	Status int    `json:"status"`
	Title  string `json:"title"`
	// Code is stable: programs may rely on it.
	Code string `json:"code"`
	// Detail is for a person, and says what would be right.
	Detail string `json:"detail"`
	// Errors are the mistakes in a manifest, each with its place.
	Errors manifest.Problems `json:"errors,omitempty"`

	header map[string]string // further headers of the answer
}

func (p *problem) Error() string { return p.Code + ": " + p.Detail }

// The codes of problems.
const (
	codeBadPayload   = "bad_payload"
	codeBadQuery     = "bad_query"
	codeUnauthorized = "unauthorized"
	codeSignature    = "bad_signature"
	codeForbidden    = "forbidden"
	codeHost         = "host_not_allowed"
	codeCrossOrigin  = "cross_origin"
	codeNotFound     = "not_found"
	codeMethod       = "method_not_allowed"
	codeDisabled     = "endpoint_disabled"
	codeAmbiguous    = "ambiguous"
	codeDecided      = "already_decided"
	codeNoStream     = "no_stream"
	codeExpired      = "expired"
	codeRevision     = "revision_conflict"
	codeTooLarge     = "payload_too_large"
	codeContentType  = "unsupported_content_type"
	codeManifest     = "invalid_manifest"
	codeInvalid      = "invalid_request"
	codeInternal     = "internal"
	codeStreamFull   = "stream_full"
	codeUnavailable  = "unavailable"
)

func refusal(status int, code, format string, args ...any) *problem {
	return &problem{Type: "about:blank", Status: status, Title: http.StatusText(status), Code: code, Detail: fmt.Sprintf(format, args...)}
}

// with adds a header to the answer.
func (p *problem) with(name, value string) *problem {
	if p.header == nil {
		p.header = make(map[string]string)
	}
	p.header[name] = value
	return p
}

// write answers with the problem.
func (p *problem) write(w http.ResponseWriter) {
	for name, value := range p.header {
		w.Header().Set(name, value)
	}
	answer(w, p.Status, "application/problem+json", p)
}

// refuse answers with a problem.
func refuse(w http.ResponseWriter, status int, code, detail string) {
	refusal(status, code, "%s", detail).write(w)
}

func wrongMethod(r *http.Request, allowed ...string) *problem {
	allow := strings.Join(allowed, ", ")
	return refusal(http.StatusMethodNotAllowed, codeMethod, "%s is not allowed here, but %s", r.Method, allow).with("Allow", allow)
}

// unavailable is the problem of what works when it is tried again in a while.
func unavailable(detail string) *problem {
	return refusal(http.StatusServiceUnavailable, codeUnavailable, "%s", detail).with("Retry-After", "5")
}

// answer writes a JSON answer that nobody may keep.
func answer(w http.ResponseWriter, status int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) //nolint:errchkjson // structs and maps of texts; the peer has gone if this fails
}

// problemOf turns any error of a handler into a problem. What it doesn't know
// is a fault of ours, whose text is for the log.
func problemOf(err error) *problem {
	var (
		known      *problem
		mistakes   manifest.Problems
		undeclared *ops.NotDeclaredError
		off        *ops.DisabledError
		criterion  *ops.CriterionError
		decided    *streams.DecidedError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &mistakes):
		p := refusal(http.StatusUnprocessableEntity, codeManifest, "the manifest has mistakes")
		p.Errors = mistakes
		return p
	case errors.As(err, &criterion):
		return refusal(http.StatusBadRequest, codeBadQuery, "%s", criterion)
	case errors.Is(err, manifest.ErrNotFound):
		return refusal(http.StatusNotFound, codeNotFound, "there is no such app")
	case errors.As(err, &undeclared):
		return refusal(http.StatusNotFound, codeNotFound, "%s", undeclared)
	case errors.Is(err, streams.ErrNoPending):
		return refusal(http.StatusNotFound, codeNotFound, "there is no such pending call")
	case errors.Is(err, streams.ErrAmbiguous):
		return refusal(http.StatusConflict, codeAmbiguous, "%s", err)
	case errors.As(err, &decided):
		return refusal(http.StatusConflict, codeDecided, "%s", decided)
	case errors.As(err, &off):
		return refusal(http.StatusConflict, codeDisabled, "%s; enable it first", off)
	case errors.Is(err, streams.ErrNoStream):
		return refusal(http.StatusConflict, codeNoStream, "no app takes events of this capability any more; apply a manifest that declares it")
	case errors.Is(err, streams.ErrNoSuchName):
		return refusal(http.StatusUnprocessableEntity, codeInvalid, "%s", streams.ErrNoSuchName)
	case errors.Is(err, streams.ErrTooLarge):
		return refusal(http.StatusConflict, codeTooLarge, "the event is larger than its stream takes now")
	case errors.Is(err, manifest.ErrConflict):
		return refusal(http.StatusPreconditionFailed, codeRevision, "the manifest was changed meanwhile; read it again, and apply your change to that")
	case errors.Is(err, streams.ErrStreamFull):
		return refusal(http.StatusServiceUnavailable, codeStreamFull, "the stream is full; try again when apps have caught up").with("Retry-After", "10")
	case errors.As(err, new(*ops.StoppedError)) && errors.Is(err, context.Canceled):
		return unavailable("Backstop stops; the same request goes on")
	case isUnavailable(err):
		return unavailable("NATS doesn't answer; try again")
	default:
		return refusal(http.StatusInternalServerError, codeInternal, "a fault of Backstop's own; its log says more")
	}
}

// isUnavailable tells whether an error is NATS's, or of a NATS that is being
// set up.
func isUnavailable(err error) bool {
	for _, known := range []error{
		context.DeadlineExceeded, context.Canceled, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrConnectionClosed,
		nats.ErrConnectionReconnecting, jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
