package admin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

func listDeadLetters(w http.ResponseWriter, r *request) error {
	list, err := findDeadLetters(r)
	if err != nil {
		return err
	}
	return reply(w, list)
}

// findDeadLetters returns a page of dead letters without their payloads, oldest
// first unless the newest are asked for.
func findDeadLetters(r *request) (list page[ops.DeadLetter], err error) {
	filter, err := ops.Criteria{
		App: r.param("app"), Capability: r.param("capability"), Reason: r.param("reason"), Since: r.param("since"), Until: r.param("until"),
	}.Filter(time.Now(), nil)
	if err != nil {
		return list, err
	}
	from, err := r.sequence()
	if err != nil {
		return list, err
	}
	filter.WithoutPayload = true
	letters := r.backend.Ops.DeadLetters()
	all := letters.Select
	switch order := r.param("order"); order {
	case "", "oldest":
		filter.After = from
	case "newest":
		all = letters.SelectNewest
		if filter.Through = max(from, 1) - 1; from == 1 { // nothing lies before the first
			return page[ops.DeadLetter]{Items: []ops.DeadLetter{}}, nil
		}
	default:
		return list, badParameter("order", "%q: want oldest or newest", order)
	}
	found, err := pageOfStored(r, all(r.Context(), filter), func(d streams.DeadLetter) uint64 { return d.Sequence })
	if err != nil {
		return list, err
	}
	list = page[ops.DeadLetter]{Items: make([]ops.DeadLetter, len(found.Items)), NextCursor: found.NextCursor}
	for i, d := range found.Items {
		list.Items[i] = ops.View(d)
	}
	return list, nil
}

// maxGroups is the most groups of one answer, some 300 bytes each.
const maxGroups = 1000

// groupDeadLetters answers with dead letters by endpoint and cause, the largest
// groups first. It has a path of its own: an event's id may be "groups".
func groupDeadLetters(w http.ResponseWriter, r *request) error {
	filter, err := ops.Criteria{
		App: r.param("app"), Capability: r.param("capability"), Reason: r.param("reason"), Since: r.param("since"), Until: r.param("until"),
	}.Filter(time.Now(), nil)
	if err != nil {
		return err
	}
	groups, err := r.backend.Ops.Group(r.Context(), filter)
	if err != nil {
		return err
	}
	return reply(w, page[ops.Group]{Items: groups[:min(len(groups), maxGroups)]})
}

// getDeadLetter answers with the dead letter of an event, with its payload. An
// event that went to several endpoints may have one at each.
func getDeadLetter(w http.ResponseWriter, r *request) error {
	id := r.PathValue("id")
	filter, err := ops.Criteria{App: r.param("app"), Capability: r.param("capability")}.Filter(time.Now(), []string{id})
	if err != nil {
		return err
	}
	filter.WithoutPayload = true // it is looked for in all of them
	var found []streams.DeadLetter
	letters := r.backend.Ops.DeadLetters()
	for d, err := range letters.Select(r.Context(), filter) {
		if err != nil {
			return err
		}
		if found = append(found, d); len(found) > 1 {
			return refusal(http.StatusConflict, codeAmbiguous, "event %s has dead letters at %s and at other endpoints; name one with app and capability", id, found[0].EndpointID)
		}
	}
	if len(found) == 0 {
		return noDeadLetter()
	}
	d, err := letters.Get(r.Context(), found[0].Sequence)
	if err != nil {
		return gone(err)
	}
	return reply(w, ops.ViewWithPayload(d))
}

// gone returns the problem of a dead letter that is no more, or else err.
func gone(err error) error {
	if errors.Is(err, streams.ErrGone) {
		return noDeadLetter()
	}
	return err
}

func noDeadLetter() error {
	return refusal(http.StatusNotFound, codeNotFound, "there is no such dead letter; it may have been replayed or discarded")
}

// decision is the body of a replay and of a discard.
type decision struct {
	// IDs, the criteria or All say which dead letters.
	IDs        []string `json:"ids"`
	App        string   `json:"app"`
	Capability string   `json:"capability"`
	Reason     string   `json:"reason"`
	Since      string   `json:"since"`
	Until      string   `json:"until"`
	All        bool     `json:"all"`
	// DryRun counts them, and does nothing.
	DryRun bool `json:"dryRun"`
	// Rate is the most a second; 0 means as fast as it goes.
	Rate float64 `json:"rate"`
	// Why is the reason, for the record.
	Why string `json:"why"`
	// Cursor goes on where an earlier answer says so.
	Cursor string `json:"cursor"`
}

// reach is how far a decision has got: everything up to Done is decided about,
// and nothing behind Through will be, as that failed after it was made.
type reach struct{ Done, Through uint64 }

func (p reach) cursor() string {
	return encodeCursor(fmt.Sprintf("%d-%d", p.Done, p.Through))
}

func parseReach(cursor string) (p reach, err error) {
	if cursor == "" {
		return reach{}, nil
	}
	place, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		_, err = fmt.Sscanf(string(place), "%d-%d", &p.Done, &p.Through)
	}
	if err != nil {
		return reach{}, refusal(http.StatusUnprocessableEntity, codeInvalid, "cursor: want that of an earlier answer")
	}
	return p, nil
}

// decideFor is how long one request works. What is left then is for the next, so
// that no client, proxy or shutdown has to wait for ten thousand replays, and a
// client that goes away stops them. A variable for tests.
var decideFor = 20 * time.Second

// Bounds of a decision.
const (
	// answerFor is how long reading, deciding and answering may take.
	answerFor = time.Minute

	maxIDs  = 1000
	minRate = 0.1
	maxRate = 1e6
)

// filter returns what the body selects.
func (d decision) filter(now time.Time) (streams.Filter, error) {
	criteria := ops.Criteria{App: d.App, Capability: d.Capability, Reason: d.Reason, Since: d.Since, Until: d.Until}
	given := len(d.IDs) > 0 || !criteria.None()
	invalid := ""
	switch {
	case !given && !d.All:
		invalid = `which dead letters? Give ids, a filter, or "all": true`
	case given && d.All:
		invalid = "all excludes ids and filters"
	case len(d.IDs) > maxIDs:
		invalid = "ids: want at most 1000; use a filter for more"
	case d.Rate != 0 && !(d.Rate >= minRate && d.Rate <= maxRate):
		invalid = "rate: want a number a second, from 0.1 to 1000000"
	}
	if invalid != "" {
		return streams.Filter{}, refusal(http.StatusUnprocessableEntity, codeInvalid, "%s", invalid)
	}
	f, err := criteria.Filter(now, d.IDs)
	if wrong := (*ops.CriterionError)(nil); errors.As(err, &wrong) {
		return f, refusal(http.StatusUnprocessableEntity, codeInvalid, "%s", wrong)
	}
	if err != nil {
		return f, err
	}
	from, err := parseReach(d.Cursor)
	f.After, f.Through = from.Done, from.Through
	return f, err
}

// outcome is the answer to a decision.
type outcome struct {
	ops.Decided
	// Left is how many are still to be decided. With Cursor, the same request
	// goes on; after a dry run, it decides about just those that were counted.
	Left   int    `json:"left"`
	Cursor string `json:"cursor,omitempty"`
	// EstimatedMs is about how long those take that are left, or of a dry run
	// all of them.
	EstimatedMs int64 `json:"estimatedMs"`
	// Missing are ids that no dead letter has.
	Missing []string `json:"missing,omitempty"`
	// Problem says why some failed, or why it stopped.
	Problem *problem `json:"problem,omitempty"`
}

func (s *Server) replayDeadLetters(w http.ResponseWriter, r *request) error {
	return s.decide(w, r, ops.Replay())
}

func (s *Server) discardDeadLetters(w http.ResponseWriter, r *request) error {
	return s.decide(w, r, ops.Discard())
}

func (s *Server) decide(w http.ResponseWriter, r *request, what ops.Decision) error {
	var body decision
	if err := r.decode(w, &body); err != nil {
		return err
	}
	if err := checkReason("why", body.Why); err != nil {
		return err
	}
	filter, err := body.filter(time.Now())
	if err != nil {
		return err
	}
	extend(w, answerFor)
	selected, err := r.backend.Ops.Select(r.Context(), filter)
	if err != nil {
		return err
	}
	if len(selected.Sequences) == 0 && len(selected.Missing) > 0 && body.Cursor == "" {
		return noDeadLetter() // somebody else was faster
	}
	out := outcome{Missing: selected.Missing, Decided: ops.Decided{Matched: len(selected.Sequences), DryRun: body.DryRun}}
	if !body.DryRun {
		if out.Decided, err = s.carryOut(r, what, body, selected); err != nil {
			if out.Problem = problemOf(err); out.Done == 0 && out.Skipped == 0 {
				return err
			}
		}
	}
	out.Left = out.Decided.Left()
	out.EstimatedMs = ops.Estimate(out.Left, body.Rate).Milliseconds()
	if out.Left > 0 {
		so := reach{Done: filter.After, Through: selected.Through}
		if handled := out.Matched - out.Left; handled > 0 {
			so.Done = selected.Sequences[handled-1]
		}
		out.Cursor = so.cursor()
	}
	return reply(w, out)
}

// carryOut decides about as many of the selection as decideFor allows, unless
// the client goes away or the server stops.
func (s *Server) carryOut(r *request, what ops.Decision, body decision, selected ops.Selection) (ops.Decided, error) {
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	return r.backend.Ops.Decide(ctx, r.actor(), what, selected, ops.Options{Why: body.Why, PerSecond: body.Rate, Within: decideFor})
}

// extend gives an answer more time than others have.
func extend(w http.ResponseWriter, by time.Duration) {
	control := http.NewResponseController(w)
	// Neither can fail with our own server; with another, its timeouts hold.
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Now().Add(by))
}

// untilStop returns a context that also ends when the server stops.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-ctx.Done():
		case <-s.stopping:
			cancel()
		}
	}()
	return ctx, cancel
}
