package streams

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/bucket"
)

// PendingState is how far a pending request is.
type PendingState string

// The states of a pending request.
const (
	PendingWaiting  PendingState = "waiting"
	PendingApproved PendingState = "approved"
	PendingRejected PendingState = "rejected"
)

// PendingRequest is a call that waits for a person: one entry of the pending
// bucket. It waits until somebody decides, however long that takes.
type PendingRequest struct {
	// ID is the call's id, which its caller was told.
	ID         string `json:"id"`
	App        string `json:"app"`
	Capability string `json:"capability"`
	// Reason says why the app did not answer, as in a call's reply.
	Reason string `json:"reason,omitempty"`
	// CreatedAt is when the request was stored.
	CreatedAt time.Time    `json:"createdAt"`
	State     PendingState `json:"state"`
	// DecidedBy, DecidedAt and Why are who decided, when, and the reason that
	// they gave, which may be empty. Zero while waiting.
	DecidedBy string    `json:"decidedBy,omitempty"`
	DecidedAt time.Time `json:"decidedAt,omitzero"`
	Why       string    `json:"why,omitempty"`
	// Done says that everybody who should know of the decision was told; until
	// then, whoever starts up has to see to it. DoneAt is since when.
	Done   bool      `json:"done,omitempty"`
	DoneAt time.Time `json:"doneAt,omitzero"`
	// TraceParent and TraceState are the caller's W3C trace context.
	TraceParent string `json:"traceparent,omitempty"`
	TraceState  string `json:"tracestate,omitempty"`
	// Payload is the call's JSON as it was sent, but for white space around it.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// EndpointID returns the endpoint that the request was for.
func (p PendingRequest) EndpointID() EndpointID {
	return EndpointID{Capability: p.Capability, App: p.App}
}

// Key returns the request's key in the bucket, "<capability>.<app>.<id>",
// which names it also where two requests have one id.
func (p PendingRequest) Key() string { return p.Capability + "." + p.App + "." + p.ID }

// What Pendings refuse with, beside DecidedError.
var (
	// ErrNoPending: there is no pending request with that id.
	ErrNoPending = errors.New("no such pending request")
	// ErrAmbiguous: several endpoints have a pending request with that id.
	ErrAmbiguous = errors.New("several pending requests have this id")
	// ErrUndecided: nobody has decided the request yet.
	ErrUndecided = errors.New("nobody has decided yet")
)

// DecidedError says that a request was decided already, and what by whom.
type DecidedError struct{ Request PendingRequest }

func (e *DecidedError) Error() string {
	r := e.Request
	text := fmt.Sprintf("%s was %s already, by %s on %s", r.ID, r.State, r.DecidedBy, r.DecidedAt.UTC().Format(time.RFC3339))
	if r.Why != "" {
		text += ": " + r.Why
	}
	return text
}

// The most bytes that a person's words may have.
const (
	maxDecider = 200
	maxWhy     = 4000
)

// pendingKept is how long a request is kept when all is done, to be looked up.
const pendingKept = 7 * 24 * time.Hour

// Pendings reads and writes the pending bucket.
type Pendings struct{ kv jetstream.KeyValue }

// NewPendings returns the requests that are kept in kv, the pending bucket.
func NewPendings(kv jetstream.KeyValue) *Pendings { return &Pendings{kv: kv} }

// Create stores a request that waits from now on. Its id, endpoint, payload and
// trace are the caller's to set, and the reason; the rest is filled in. A
// request that is there already, under the same endpoint and id, stays as it
// is, decided or not. It returns what is stored.
func (s *Pendings) Create(ctx context.Context, r PendingRequest) (PendingRequest, error) {
	if err := r.check(); err != nil {
		return PendingRequest{}, err
	}
	if len(r.TraceParent) > MaxTrace || len(r.TraceState) > MaxTrace {
		r.TraceParent, r.TraceState = "", "" // it would not be passed on, either
	}
	r.State, r.CreatedAt = PendingWaiting, time.Now().UTC()
	r.DecidedBy, r.DecidedAt, r.Why, r.Done, r.DoneAt = "", time.Time{}, "", false, time.Time{}
	stored := r
	_, _, err := bucket.Swap(ctx, s.kv, r.Key(), func(old []byte) (value []byte, err error) {
		if old == nil {
			stored = r
			return r.encode()
		}
		stored, err = decodePending(r.Key(), old)
		return old, err
	})
	if err != nil {
		return PendingRequest{}, fmt.Errorf("keep %s of %s for a person: %w", r.ID, r.EndpointID(), err)
	}
	return stored, nil
}

func (p PendingRequest) check() error {
	if err := CheckName("capability", p.Capability); err != nil {
		return err
	}
	if err := CheckName("app", p.App); err != nil {
		return err
	}
	if err := CheckID(p.ID); err != nil {
		return err
	}
	switch {
	case len(p.Payload) > MaxPayload:
		return fmt.Errorf("%w: at most %d KiB of JSON", ErrTooLarge, MaxPayload>>10)
	case !ValidJSON(p.Payload):
		return errors.New("the payload is not JSON")
	default:
		return nil
	}
}

// List returns every request, decided ones included, oldest first.
func (s *Pendings) List(ctx context.Context) ([]PendingRequest, error) {
	entries, err := bucket.List(ctx, s.kv)
	if err != nil {
		return nil, err
	}
	requests := make([]PendingRequest, 0, len(entries))
	for _, e := range entries {
		r, err := decodePending(e.Key(), e.Value())
		if err != nil {
			return nil, err
		}
		requests = append(requests, r)
	}
	slices.SortStableFunc(requests, func(a, b PendingRequest) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Key(), b.Key()))
	})
	return requests, nil
}

// Get returns the request with the id, or with the key that Key gives. The
// error is ErrNoPending or ErrAmbiguous, or says what failed.
func (s *Pendings) Get(ctx context.Context, id string) (PendingRequest, error) {
	key, err := s.find(ctx, id)
	if err != nil {
		return PendingRequest{}, err
	}
	value, revision, err := bucket.Read(ctx, s.kv, key)
	switch {
	case err != nil:
		return PendingRequest{}, err
	case revision == 0:
		return PendingRequest{}, fmt.Errorf("%s: %w", id, ErrNoPending)
	default:
		return decodePending(key, value)
	}
}

// find returns the key of the request with an id.
func (s *Pendings) find(ctx context.Context, id string) (string, error) {
	if key, ok := wholeKey(id); ok {
		return key, nil
	}
	if !ValidID(id) { // also keeps wildcards out of the filter
		return "", fmt.Errorf("%q: %w", id, ErrNoPending)
	}
	entries, err := bucket.List(ctx, s.kv, "*.*."+id)
	if err != nil {
		return "", err
	}
	switch len(entries) {
	case 0:
		return "", fmt.Errorf("%s: %w", id, ErrNoPending)
	case 1:
		return entries[0].Key(), nil
	default:
		keys := make([]string, 0, len(entries))
		for _, e := range entries {
			keys = append(keys, e.Key())
		}
		return "", fmt.Errorf("%s: %w: name one of %s", id, ErrAmbiguous, strings.Join(keys, ", "))
	}
}

// wholeKey tells whether s is a request's key rather than its id, which can
// hold no dot.
func wholeKey(s string) (string, bool) {
	tokens := strings.Split(s, ".")
	return s, len(tokens) == 3 && ValidName(tokens[0]) && ValidName(tokens[1]) && ValidID(tokens[2])
}

// Decide approves or rejects the waiting request with the id or key, on behalf
// of a person, who may say why. It returns the request as decided. The error
// is ErrNoPending, ErrAmbiguous, or a DecidedError when somebody was faster.
//
// Deciding is the record alone: whoever watches the bucket tells the world,
// and calls MarkDone then.
func (s *Pendings) Decide(ctx context.Context, id string, approve bool, by, why string) (PendingRequest, error) {
	if err := checkDecision(by, why); err != nil {
		return PendingRequest{}, err
	}
	key, err := s.find(ctx, id)
	if err != nil {
		return PendingRequest{}, err
	}
	return s.change(ctx, key, func(r *PendingRequest) error {
		if r.State != PendingWaiting {
			return &DecidedError{*r}
		}
		r.State = PendingRejected
		if approve {
			r.State = PendingApproved
		}
		r.DecidedBy, r.DecidedAt, r.Why = by, time.Now().UTC(), why
		return nil
	})
}

func checkDecision(by, why string) error {
	switch {
	case strings.TrimSpace(by) == "":
		return errors.New("a decision needs the name of who made it")
	case len(by) > maxDecider || !utf8.ValidString(by):
		return fmt.Errorf("the name of who decides has to be UTF-8 of at most %d bytes", maxDecider)
	case len(why) > maxWhy || !utf8.ValidString(why):
		return fmt.Errorf("the reason of a decision has to be UTF-8 of at most %d bytes", maxWhy)
	default:
		return nil
	}
}

// MarkDone records that everybody was told of the decision on the request with
// the id or key. A second time changes nothing. The error is ErrNoPending,
// ErrAmbiguous or ErrUndecided, or says what failed.
func (s *Pendings) MarkDone(ctx context.Context, id string) error {
	key, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	_, err = s.change(ctx, key, func(r *PendingRequest) error {
		if r.State == PendingWaiting {
			return fmt.Errorf("%s: %w", key, ErrUndecided)
		}
		if !r.Done {
			r.Done, r.DoneAt = true, time.Now().UTC()
		}
		return nil
	})
	return err
}

// change applies edit to a request by compare-and-set.
func (s *Pendings) change(ctx context.Context, key string, edit func(*PendingRequest) error) (PendingRequest, error) {
	var r PendingRequest
	_, _, err := bucket.Swap(ctx, s.kv, key, func(old []byte) (value []byte, err error) {
		if old == nil {
			return nil, fmt.Errorf("%s: %w", key, ErrNoPending)
		}
		if r, err = decodePending(key, old); err != nil {
			return nil, err
		}
		if err := edit(&r); err != nil {
			return nil, err
		}
		return r.encode()
	})
	if err != nil {
		return PendingRequest{}, err
	}
	return r, nil
}

// Watch calls apply for every request, with its key, and with nil when one is
// gone, until ctx ends; loaded is called once, when all that was there has been
// applied. It survives the loss of the connection, and returns an error only
// when the connection was closed for good.
func (s *Pendings) Watch(ctx context.Context, log *slog.Logger, loaded func(), apply func(key string, r *PendingRequest)) error {
	return bucket.Watch(ctx, s.kv, log, func(c bucket.Change) {
		switch {
		case c.Loaded:
			loaded()
		case c.Removed:
			apply(c.Key, nil)
		default:
			r, err := decodePending(c.Key, c.Value)
			if err != nil {
				log.Error("an entry of the pending bucket was ignored", "error", err)
				return
			}
			apply(c.Key, &r)
		}
	})
}

// Sweep removes the requests that were done more than 7 days before now, and
// returns how many. One that waits, or of which somebody is still to be told,
// stays for ever.
func (s *Pendings) Sweep(ctx context.Context, now time.Time) (int, error) {
	entries, err := bucket.List(ctx, s.kv)
	if err != nil {
		return 0, err
	}
	removed := 0
	for _, e := range entries {
		r, err := decodePending(e.Key(), e.Value())
		if err != nil || r.State == PendingWaiting || !r.Done || now.Sub(r.DoneAt) <= pendingKept {
			continue // also what can't be read: a person should see it
		}
		switch err := bucket.Remove(ctx, s.kv, e.Key(), e.Revision()); {
		case err == nil:
			removed++
		case !errors.Is(err, bucket.ErrConflict): // otherwise it was changed, and waits for the next sweep
			return removed, err
		}
	}
	return removed, nil
}

// encode writes the payload behind the rest as it is, which json.Marshal would
// not: the app must get the bytes that the caller sent.
func (p PendingRequest) encode() ([]byte, error) {
	payload := p.Payload
	p.Payload = nil
	value, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	value = append(value[:len(value)-1], `,"payload":`...)
	return append(append(value, bytes.TrimSpace(payload)...), '}'), nil
}

// decodePending reads an entry; its key decides on endpoint and id, so that a
// value put by hand can't speak for another one.
func decodePending(key string, value []byte) (PendingRequest, error) {
	r := PendingRequest{}
	tokens := strings.Split(key, ".")
	if err := json.Unmarshal(value, &r); err != nil || len(tokens) != 3 {
		return PendingRequest{}, fmt.Errorf("entry %q of bucket %s is not a pending request: %w",
			key, PendingBucket, cmp.Or(err, errors.New("the key is not <capability>.<app>.<id>")))
	}
	r.Capability, r.App, r.ID = tokens[0], tokens[1], tokens[2]
	switch r.State {
	case PendingWaiting, PendingApproved, PendingRejected:
		return r, nil
	default:
		return PendingRequest{}, fmt.Errorf("entry %q of bucket %s has the state %q, which there isn't", key, PendingBucket, r.State)
	}
}
