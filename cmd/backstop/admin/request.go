package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// request is one that may be carried out: its sender may do so, and its query
// has no parameter that the route doesn't know.
type request struct {
	*http.Request
	backend *Backend
	who     identity
	query   url.Values
}

// actor is who makes the request, for the record.
func (r *request) actor() ops.Actor { return ops.Actor{Name: r.who.name, Via: ops.ViaAPI} }

// param returns a query parameter. It is there at most once; see parseQuery.
func (r *request) param(name string) string { return r.query.Get(name) }

// badParameter is the problem of a query parameter.
func badParameter(name, format string, args ...any) *problem {
	return refusal(http.StatusBadRequest, codeBadQuery, "%s: "+format, append([]any{name}, args...)...)
}

// parseQuery reads the query, in which only the allowed parameters may be, each
// at most once: a filter that is misspelt would otherwise select everything.
func parseQuery(r *http.Request, allowed []string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refusal(http.StatusBadRequest, codeBadQuery, "the query can't be read")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case !slices.Contains(allowed, name):
			return nil, refusal(http.StatusBadRequest, codeBadQuery, "%q is not a parameter here; there are: %s", name, strings.Join(allowed, ", "))
		case len(query[name]) > 1:
			return nil, badParameter(name, "given %d times", len(query[name]))
		}
	}
	return query, nil
}

// token returns a query parameter that becomes a token of a subject.
func (r *request) token(name string) (string, error) {
	value := r.param(name)
	if strings.ContainsAny(value, ".*> \t\r\n") {
		return "", badParameter(name, "%q: want one name", value)
	}
	return value, nil
}

// maxBody is the most bytes of a body, unless a route says otherwise.
const maxBody = 64 << 10

// readJSON returns the body of a request, which is JSON of at most limit bytes;
// nil when there is none. The error is a problem.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, refusal(http.StatusRequestEntityTooLarge, codeTooLarge, "the body may have at most %d bytes", limit)
	case err != nil:
		return nil, refusal(http.StatusBadRequest, codeBadPayload, "the body did not arrive whole")
	case len(body) == 0:
		return nil, nil
	case !isJSON(r.Header):
		return nil, refusal(http.StatusUnsupportedMediaType, codeContentType,
			"send JSON, with Content-Type: application/json or none, and without Content-Encoding")
	case !streams.ValidJSON(body):
		return nil, refusal(http.StatusBadRequest, codeBadPayload, "the body is not JSON")
	}
	return body, nil
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

// decode reads the body into v. Fields that v doesn't have are mistakes; no
// body is an empty object.
func (r *request) decode(w http.ResponseWriter, v any) error {
	data, err := readJSON(w, r.Request, maxBody)
	if err != nil || data == nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err = dec.Decode(v)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return refusal(http.StatusUnprocessableEntity, codeInvalid, "%s: want a %s, found a %s", wrong.Field, wrong.Type, wrong.Value)
	default: // an unknown field; the decoder names it
		return refusal(http.StatusUnprocessableEntity, codeInvalid, "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
}

// maxReason is the most characters of a reason that an operator gives.
const maxReason = 500

// checkReason bounds such a reason, which is in a field of the body.
func checkReason(name, text string) error {
	if len([]rune(text)) > maxReason {
		return refusal(http.StatusUnprocessableEntity, codeInvalid, "%s: want at most %d characters", name, maxReason)
	}
	return nil
}

// etag is the entity tag of a revision.
func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }

// matches tells whether a list of entity tags, of If-Match or If-None-Match,
// holds that of the revision; 0 means that there is nothing, which nothing
// matches.
func matches(header string, revision uint64) (bool, error) {
	if strings.TrimSpace(header) == "*" {
		return revision != 0, nil
	}
	found := false
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if len(tag) < 2 || tag[0] != '"' || tag[len(tag)-1] != '"' {
			return false, refusal(http.StatusBadRequest, codeInvalid, `%s is no ETag, such as "12" with its quotes`, tag)
		}
		found = found || revision != 0 && tag == etag(revision)
	}
	return found, nil
}

// reply answers 200 with v as JSON.
func reply(w http.ResponseWriter, v any) error {
	answer(w, http.StatusOK, "application/json", v)
	return nil
}
