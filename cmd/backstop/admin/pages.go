package admin

import (
	"encoding/base64"
	"iter"
	"strconv"
)

// page is a list as the API answers it.
type page[T any] struct {
	Items []T `json:"items"`
	// NextCursor is there when there may be more: given as cursor, it goes on.
	NextCursor string `json:"nextCursor,omitempty"`
}

// How many items a page has when the request doesn't say, and may have.
const (
	defaultLimit = 100
	maxLimit     = 1000
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

// A cursor says where the page before ended. Clients are to pass it on, not to
// make it, which base64 shows.
func encodeCursor(place string) string { return base64.RawURLEncoding.EncodeToString([]byte(place)) }

// place returns where the page before ended; "" for the first.
func (r *request) place() (string, error) {
	place, err := base64.RawURLEncoding.DecodeString(r.param("cursor"))
	if err != nil {
		return "", badParameter("cursor", "want the nextCursor of the page before")
	}
	return string(place), nil
}

// sequence returns the sequence where the page before ended; 0 for the first.
func (r *request) sequence() (uint64, error) {
	place, err := r.place()
	if err != nil || place == "" {
		return 0, err
	}
	n, err := strconv.ParseUint(place, 10, 64)
	if err != nil || n == 0 {
		return 0, badParameter("cursor", "want the nextCursor of the page before")
	}
	return n, nil
}

func sequenceCursor(n uint64) string { return encodeCursor(strconv.FormatUint(n, 10)) }

// pageOf returns the requested page of a list that is in memory, in the order
// of its keys, each of which occurs once.
func pageOf[T any](r *request, all []T, key func(T) string) (page[T], error) {
	limit, err := r.limit()
	if err != nil {
		return page[T]{}, err
	}
	after, err := r.place()
	if err != nil {
		return page[T]{}, err
	}
	p := page[T]{Items: []T{}}
	for _, item := range all {
		switch {
		case after != "" && key(item) <= after:
		case len(p.Items) == limit:
			p.NextCursor = encodeCursor(key(p.Items[limit-1]))
			return p, nil
		default:
			p.Items = append(p.Items, item)
		}
	}
	return p, nil
}

// pageOfStored returns the requested page of what a stream holds, which begins
// where the cursor says.
func pageOfStored[T any](r *request, all iter.Seq2[T, error], sequence func(T) uint64) (page[T], error) {
	limit, err := r.limit()
	if err != nil {
		return page[T]{}, err
	}
	p := page[T]{Items: []T{}}
	for item, err := range all {
		if err != nil {
			return page[T]{}, err
		}
		if len(p.Items) == limit {
			p.NextCursor = sequenceCursor(sequence(p.Items[limit-1]))
			break
		}
		p.Items = append(p.Items, item)
	}
	return p, nil
}
