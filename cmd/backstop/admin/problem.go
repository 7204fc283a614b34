package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
	"backstop/streams/manifest"
)

// Problem is why a request was not carried out: problem details of RFC 9457.
// It is an error, which handlers return.
type Problem struct { //nolint:errname // it is an answer first
	// Type identifies the kind of problem: "urn:backstop:problem:" and Code.
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Code is stable: programs may rely on it.
	Code string `json:"code"`
	// Detail says what is wrong here, and what would be right.
	Detail string `json:"detail,omitempty"`
	// Errors are the mistakes in a document, each with its place.
	Errors manifest.Problems `json:"errors,omitempty"`

	header http.Header // further headers of the answer
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// The codes of problems.
const (
	codeBadRequest       = "bad_request"
	codeBadJSON          = "bad_json"
	codeUnknownParameter = "unknown_parameter"
	codeBadParameter     = "bad_parameter"
	codeUnauthorized     = "unauthorized"
	codeForbidden        = "forbidden"
	codeHost             = "host_not_allowed"
	codeCrossOrigin      = "cross_origin"
	codeNotFound         = "not_found"
	codeAppNotFound      = "app_not_found"
	codeEndpointNotFound = "endpoint_not_found"
	codeLetterNotFound   = "dead_letter_not_found"
	codePendingNotFound  = "pending_not_found"
	codeMethod           = "method_not_allowed"
	codeNotAcceptable    = "not_acceptable"
	codeLetterGone       = "dead_letter_gone"
	codeDisabled         = "endpoint_disabled"
	codeDecided          = "already_decided"
	codeStreamFull       = "stream_full"
	codeNoStream         = "no_stream"
	codeRevision         = "revision_conflict"
	codeTooLarge         = "too_large"
	codeMediaType        = "unsupported_media_type"
	codeManifest         = "invalid_manifest"
	codeInvalid          = "invalid_request"
	codeTooMany          = "too_many_requests"
	codeInternal         = "internal"
	codeNotImplemented   = "not_implemented"
	codeUnavailable      = "unavailable"
)

func problem(status int, code, format string, args ...any) *Problem {
	return &Problem{
		Type: "urn:backstop:problem:" + code, Title: http.StatusText(status), Status: status, Code: code,
		Detail: fmt.Sprintf(format, args...),
	}
}

// with adds a header to the answer.
func (p *Problem) with(name, value string) *Problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

// missing is the problem of a part that this build, or this process, has not.
func missing(what string) *Problem {
	return problem(http.StatusNotImplemented, codeNotImplemented, "this Backstop has no %s", what)
}

// problemOf turns any error of a handler into a problem. What it doesn't know
// is a fault of ours, whose text is for the log.
func problemOf(err error) *Problem {
	var (
		known      *Problem
		mistakes   manifest.Problems
		undeclared *ops.NotDeclaredError
		off        *ops.DisabledError
		criterion  *ops.CriterionError
		tooLarge   *http.MaxBytesError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &mistakes):
		p := problem(http.StatusUnprocessableEntity, codeManifest, "the manifest has mistakes")
		p.Errors = mistakes
		return p
	case errors.As(err, &undeclared):
		return problem(http.StatusNotFound, codeEndpointNotFound, "%s", undeclared)
	case errors.As(err, &off):
		return problem(http.StatusConflict, codeDisabled, "%s; enable it first", off)
	case errors.As(err, &criterion):
		return problem(http.StatusBadRequest, codeBadParameter, "%s", criterion)
	case errors.As(err, &tooLarge):
		return problem(http.StatusRequestEntityTooLarge, codeTooLarge, "the body may have at most %d bytes", tooLarge.Limit)
	case errors.Is(err, manifest.ErrNotFound):
		return problem(http.StatusNotFound, codeAppNotFound, "there is no such app")
	case errors.Is(err, manifest.ErrConflict):
		return problem(http.StatusPreconditionFailed, codeRevision, "the manifest was changed meanwhile; read it again, and apply your change to that")
	case errors.Is(err, streams.ErrGone):
		return problem(http.StatusConflict, codeLetterGone, "the dead letter was replayed or discarded meanwhile")
	case errors.Is(err, streams.ErrStreamFull):
		return problem(http.StatusServiceUnavailable, codeStreamFull, "the stream is full; try again when apps have caught up").with("Retry-After", "10")
	case errors.Is(err, ErrPendingNotFound):
		return problem(http.StatusNotFound, codePendingNotFound, "there is no such pending call")
	case errors.Is(err, ErrPendingDecided):
		return problem(http.StatusConflict, codeDecided, "somebody has decided about it already")
	case unavailable(err):
		return problem(http.StatusServiceUnavailable, codeUnavailable, "NATS doesn't answer; try again").with("Retry-After", "2")
	default:
		return problem(http.StatusInternalServerError, codeInternal, "a fault of Backstop's own; its log says more")
	}
}

// unavailable tells whether an error is NATS's, or of a NATS that is being set up.
func unavailable(err error) bool {
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

// write answers with the problem.
func (p *Problem) write(w http.ResponseWriter) {
	h := w.Header()
	maps.Copy(h, p.header)
	h.Del("ETag")
	h.Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) //nolint:errchkjson // the peer has gone if this fails
}

// known joins names for a message.
func known(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
