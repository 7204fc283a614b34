package admin

import (
	"net/http"
	"strconv"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// listDeadLetters lists dead letters without their payloads, oldest first
// unless the newest are asked for.
func listDeadLetters(w http.ResponseWriter, r *request) error {
	limit, err := r.limit()
	if err != nil {
		return err
	}
	cursor, err := r.cursor()
	if err != nil {
		return err
	}
	var ids []string
	if id := r.param("id"); id != "" {
		ids = []string{id}
	}
	filter, err := ops.Criteria{
		App: r.param("app"), Capability: r.param("capability"), Reason: r.param("reason"), Since: r.param("since"), Until: r.param("until"),
	}.Filter(time.Now(), ids)
	if err != nil {
		return err
	}
	filter.WithoutPayload = true
	letters := r.backend.Ops.DeadLetters()
	selected := letters.Select
	switch r.param("order") {
	case "", "oldest":
		filter.After = cursor
	case "newest":
		selected = letters.SelectNewest
		if cursor > 0 {
			filter.Through = cursor - 1
		}
		if cursor == 1 { // nothing can come before it
			return reply(w, http.StatusOK, page[ops.DeadLetter]{Items: []ops.DeadLetter{}})
		}
	default:
		return badParameter("order", "%q: want oldest or newest", r.param("order"))
	}
	list := page[ops.DeadLetter]{Items: []ops.DeadLetter{}}
	for d, err := range selected(r.Context(), filter) {
		if err != nil {
			return err
		}
		if len(list.Items) == limit {
			list.NextCursor = strconv.FormatUint(list.Items[limit-1].Sequence, 10)
			break
		}
		list.Items = append(list.Items, ops.View(d))
	}
	return reply(w, http.StatusOK, list)
}

// shownDeadLetter is a dead letter with everything about it.
type shownDeadLetter struct {
	ops.DeadLetter
	// Headers are those of the stored message.
	Headers map[string]string `json:"headers"`
}

// maxShown is how many dead letters of one event are shown: an event that was
// broadcast may have one at every app.
const maxShown = 100

// getDeadLetters answers with the dead letters of an event, with payload.
func getDeadLetters(w http.ResponseWriter, r *request) error {
	id := r.PathValue("id")
	filter, err := ops.Criteria{App: r.param("app"), Capability: r.param("capability")}.Filter(time.Now(), []string{id})
	if err != nil {
		return err
	}
	list := page[shownDeadLetter]{Items: []shownDeadLetter{}}
	filter.WithoutPayload = true // found by their headers, and then read one by one
	letters := r.backend.Ops.DeadLetters()
	for found, err := range letters.Select(r.Context(), filter) {
		if err != nil {
			return err
		}
		d, err := letters.Get(r.Context(), found.Sequence)
		if err != nil {
			return err
		}
		shown := shownDeadLetter{ops.ViewWithPayload(d), make(map[string]string)}
		for name := range d.Msg().Header {
			shown.Headers[name] = d.Msg().Header.Get(name)
		}
		if list.Items = append(list.Items, shown); len(list.Items) == maxShown {
			break
		}
	}
	if len(list.Items) == 0 {
		return problem(http.StatusNotFound, codeLetterNotFound, "there is no dead letter of that event; it may have been replayed or discarded")
	}
	return reply(w, http.StatusOK, list)
}

// decision is the body of a replay and of a discard.
type decision struct {
	// IDs, Sequences, the criteria or All say which dead letters.
	IDs        []string `json:"ids"`
	Sequences  []uint64 `json:"sequences"`
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
	// AfterSequence and ThroughSequence go on where an answer says so.
	AfterSequence   uint64 `json:"afterSequence"`
	ThroughSequence uint64 `json:"throughSequence"`
}

// Bounds of a decision. One request decides about so many as take some 20 s;
// its answer says how to go on.
const (
	decideFor    = 20 * time.Second
	maxAtOnce    = 5000
	minRate      = 0.1
	maxRate      = 1e6
	maxNamed     = 1000
	decideWithin = 3 * decideFor // for the last one of them, and the answer
)

// filter returns what the body selects.
func (d decision) filter(now time.Time) (streams.Filter, error) {
	invalid := func(format string, args ...any) error {
		return problem(http.StatusUnprocessableEntity, codeInvalid, format, args...)
	}
	criteria := ops.Criteria{App: d.App, Capability: d.Capability, Reason: d.Reason, Since: d.Since, Until: d.Until}
	given := len(d.IDs) > 0 || len(d.Sequences) > 0 || !criteria.None()
	switch {
	case !given && !d.All:
		return streams.Filter{}, invalid(`which dead letters? Give ids, sequences, a filter, or "all": true`)
	case given && d.All:
		return streams.Filter{}, invalid("all excludes ids, sequences and filters")
	case len(d.IDs) > maxNamed || len(d.Sequences) > maxNamed:
		return streams.Filter{}, invalid("ids, sequences: want at most %d", maxNamed)
	case d.Rate != 0 && !(d.Rate >= minRate && d.Rate <= maxRate):
		return streams.Filter{}, invalid("rate: want a number a second from %v to %v", minRate, maxRate)
	}
	f, err := criteria.Filter(now, d.IDs)
	f.Sequences, f.After, f.Through = d.Sequences, d.AfterSequence, d.ThroughSequence
	return f, err
}

// outcome is the answer to a decision.
type outcome struct {
	ops.Decided
	// Left is how many are still to be decided, by going on.
	Left int `json:"left"`
	// EstimatedMs is about how long all of them take (of a dry run), or those
	// that are left.
	EstimatedMs int64 `json:"estimatedMs"`
	// Missing are ids that no dead letter has, and Gone sequences at which
	// there is none any more.
	Missing []string `json:"missing,omitempty"`
	Gone    []uint64 `json:"gone,omitempty"`
	// ThroughSequence bounds the selection: with it, a later request selects
	// nothing that failed since.
	ThroughSequence uint64 `json:"throughSequence"`
	// AfterSequence is there when some are left: the same request with both
	// goes on.
	AfterSequence uint64 `json:"afterSequence,omitempty"`
	// Problem says why some failed, or why it stopped.
	Problem *Problem `json:"problem,omitempty"`
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
	extend(w, decideWithin)
	selected, err := r.backend.Ops.Select(r.Context(), filter)
	if err != nil {
		return err
	}
	if len(selected.Sequences) == 0 {
		switch { // somebody else was faster
		case len(selected.Gone) > 0:
			return streams.ErrGone
		case len(selected.Missing) > 0:
			return problem(http.StatusNotFound, codeLetterNotFound, "there is no dead letter of these events; they may have been replayed or discarded")
		}
	}
	out := outcome{Missing: selected.Missing, Gone: selected.Gone, ThroughSequence: selected.Through}
	if body.DryRun {
		out.Decided = ops.Decided{Matched: len(selected.Sequences), DryRun: true}
		out.EstimatedMs = ops.Estimate(len(selected.Sequences), body.Rate).Milliseconds()
		return reply(w, http.StatusOK, out)
	}
	return s.carryOut(w, r, what, body, selected, out)
}

// carryOut decides about the first part of the selection, and says how to go
// on with the rest.
func (s *Server) carryOut(w http.ResponseWriter, r *request, what ops.Decision, body decision, selected ops.Selection, out outcome) error {
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	part, rest := selected, selected.Sequences
	if most := atOnce(body.Rate); len(rest) > most {
		part.Sequences = rest[:most]
	}
	rest = rest[len(part.Sequences):]
	began := time.Now()
	decided, err := r.backend.Ops.Decide(ctx, r.actor(), what, part, ops.Options{Why: body.Why, PerSecond: body.Rate})
	if err != nil {
		if out.Problem = decisionProblem(err); decided.Done == 0 && decided.Skipped == 0 {
			return out.Problem
		}
	}
	handled := decided.Done + decided.Skipped + decided.Failed
	out.Decided = decided
	out.Matched = len(selected.Sequences)
	out.Left = len(selected.Sequences) - handled
	out.EstimatedMs = ops.Estimate(out.Left, body.Rate).Milliseconds()
	if out.Left > 0 && handled > 0 {
		out.AfterSequence = selected.Sequences[handled-1]
	}
	if len(rest) > 0 && body.Rate > 0 && err == nil {
		// So that going on at once keeps to the rate as well.
		pause(ctx, time.Until(began.Add(time.Duration(float64(handled)/body.Rate*float64(time.Second)))))
	}
	return reply(w, http.StatusOK, out)
}

// atOnce returns how many one request decides about.
func atOnce(perSecond float64) int {
	if perSecond <= 0 {
		return maxAtOnce
	}
	return int(max(1, min(perSecond*decideFor.Seconds(), maxAtOnce)))
}
