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
func badParameter(name, format string, args ...any) *Problem {
	return problem(http.StatusBadRequest, codeBadParameter, "%s: "+format, append([]any{name}, args...)...)
}

// parseQuery reads the query, in which only the known parameters may be, each
// at most once: a filter that is misspelt would otherwise select everything.
func parseQuery(r *http.Request, allowed []string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, problem(http.StatusBadRequest, codeBadRequest, "the query can't be read")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(allowed, name) {
			return nil, problem(http.StatusBadRequest, codeUnknownParameter, "%q is not a parameter here; known are: %s", name, known(allowed))
		}
		if len(query[name]) > 1 {
			return nil, badParameter(name, "given %d times", len(query[name]))
		}
	}
	return query, nil
}

// Pages of lists.
const (
	defaultLimit = 50
	maxLimit     = 500
)

// limit returns how many items a page may have.
func (r *request) limit() (int, error) {
	text := r.param("limit")
	if text == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxLimit {
		return 0, badParameter("limit", "%q: want a number from 1 to %d", text, maxLimit)
	}
	return n, nil
}

// cursor returns the sequence where the page before ended, 0 for the first.
func (r *request) cursor() (uint64, error) {
	text := r.param("cursor")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, badParameter("cursor", "%q: want the nextCursor of the page before", text)
	}
	return n, nil
}

// page is a list as the API answers it.
type page[T any] struct {
	Items []T `json:"items"`
	// NextCursor is there when there may be more.
	NextCursor string `json:"nextCursor,omitempty"`
}

// maxBody is the most bytes of a body, unless a route says otherwise.
const maxBody = 64 << 10

// body returns the whole body, of at most limit bytes. A body must say that it
// is JSON; none is no error, and empty.
func (r *request) body(w http.ResponseWriter, limit int64) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return nil, err
		}
		return nil, problem(http.StatusBadRequest, codeBadRequest, "the body can't be read")
	}
	if len(data) == 0 {
		return nil, nil
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return nil, problem(http.StatusUnsupportedMediaType, codeMediaType, "want Content-Type: application/json")
	}
	return data, nil
}

// decode reads the body into v. Fields that v doesn't have are mistakes; no
// body is an empty object.
func (r *request) decode(w http.ResponseWriter, v any) error {
	data, err := r.body(w, maxBody)
	if err != nil || len(data) == 0 {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return badJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return problem(http.StatusBadRequest, codeBadJSON, "there is something behind the JSON document")
	}
	return nil
}

// badJSON says what is wrong with a document. The decoder's own words are fit
// to be shown; they repeat names of fields and no values.
func badJSON(err error) *Problem {
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType):
		return problem(http.StatusUnprocessableEntity, codeInvalid, "%s: want a %s, found a %s", wrongType.Field, wrongType.Type, wrongType.Value)
	case strings.HasPrefix(err.Error(), "json: unknown field "):
		return problem(http.StatusUnprocessableEntity, codeInvalid, "%s", strings.TrimPrefix(err.Error(), "json: "))
	default:
		return problem(http.StatusBadRequest, codeBadJSON, "the body is not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
}

// reply answers with v as JSON.
func reply(w http.ResponseWriter, status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the peer has gone if this fails
	return nil
}

// etag is the entity tag of a revision.
func etag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }

// errTag says that a header holds no tags.
var errTag = errors.New(`want the ETag of the app, such as "12"`)

// revisions reads a list of entity tags; any is true for *.
func revisions(header string) (list []uint64, anyRevision bool, err error) {
	if strings.TrimSpace(header) == "*" {
		return nil, true, nil
	}
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		inner, ok := strings.CutPrefix(tag, `"`)
		inner, closed := strings.CutSuffix(inner, `"`)
		if !ok || !closed {
			return nil, false, errTag
		}
		n, err := strconv.ParseUint(inner, 10, 64)
		if err != nil {
			continue // somebody else's tag, which matches nothing
		}
		list = append(list, n)
	}
	return list, false, nil
}

// accepts tells whether the client takes a media type, by its Accept headers.
func accepts(r *http.Request, mediaType string) bool {
	header := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(header) == "" {
		return true
	}
	major, _, _ := strings.Cut(mediaType, "/")
	best, quality := -1, 0.0 // the most specific range decides
	for part := range strings.SplitSeq(header, ",") {
		name, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		specific := -1
		switch name {
		case mediaType:
			specific = 2
		case major + "/*":
			specific = 1
		case "*/*":
			specific = 0
		}
		if specific < 0 || specific < best {
			continue
		}
		q := 1.0
		if text, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				q = 0
			}
		}
		best, quality = specific, q
	}
	return quality > 0
}

// checkReason bounds a text that an operator gives as the reason.
func checkReason(name, text string) error {
	const most = 500
	if len([]rune(text)) > most {
		return problem(http.StatusUnprocessableEntity, codeInvalid, "%s: want at most %d characters", name, most)
	}
	return nil
}
