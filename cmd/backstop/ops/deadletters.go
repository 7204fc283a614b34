package ops

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"backstop/streams"
)

// DeadLetter is a dead letter as JSON shows it.
type DeadLetter struct {
	ID          string                   `json:"id"`
	App         string                   `json:"app"`
	Capability  string                   `json:"capability"`
	Reason      streams.DeadLetterReason `json:"reason"`
	Error       string                   `json:"error"`
	Status      int                      `json:"status,omitempty"`
	Attempts    int                      `json:"attempts"`
	PublishedAt time.Time                `json:"publishedAt"`
	FailedAt    time.Time                `json:"failedAt"`
	Sequence    uint64                   `json:"sequence"`
	Size        int                      `json:"size"`
	// Payload is set where one is shown whose payload is JSON; PayloadBase64
	// when it is anything else.
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 string          `json:"payloadBase64,omitempty"`
}

// View returns the dead letter without its payload.
func View(d streams.DeadLetter) DeadLetter {
	return DeadLetter{
		ID: d.ID, App: d.App, Capability: d.Capability, Reason: d.Reason, Error: d.Err, Status: d.Status,
		Attempts: d.Attempts, PublishedAt: d.PublishedAt.UTC(), FailedAt: d.FailedAt.UTC(), Sequence: d.Sequence, Size: d.Size,
	}
}

// ViewWithPayload returns the dead letter with its payload.
func ViewWithPayload(d streams.DeadLetter) DeadLetter {
	view := View(d)
	if streams.ValidJSON(d.Payload) {
		view.Payload = d.Payload
	} else {
		view.PayloadBase64 = base64.StdEncoding.EncodeToString(d.Payload)
	}
	return view
}

// Decision is what to do with dead letters.
type Decision struct {
	// Verb and Past name it: "replay", "replayed".
	Verb, Past string
	what       streams.AuditWhat
	act        func(ctx context.Context, letters *streams.DeadLetters, d streams.DeadLetter, by Actor, why string) error
}

// Replay publishes the events again, with the same id and no attempts spent.
func Replay() Decision {
	return Decision{
		Verb: "replay", Past: "replayed", what: streams.AuditReplayed,
		act: func(ctx context.Context, letters *streams.DeadLetters, d streams.DeadLetter, _ Actor, _ string) error {
			return letters.Replay(ctx, d)
		},
	}
}

// Discard removes the dead letters for good; a notice tells of each.
func Discard() Decision {
	return Decision{
		Verb: "discard", Past: "discarded", what: streams.AuditDiscarded,
		act: func(ctx context.Context, letters *streams.DeadLetters, d streams.DeadLetter, by Actor, why string) error {
			return letters.Discard(ctx, d, by.Name, why)
		},
	}
}

// Selection is dead letters that something is to be done with. It is fixed
// before anything happens, as sequences alone: what is replayed and fails again
// comes back as another dead letter, which nobody has decided about, and
// payloads would fill the memory.
type Selection struct {
	Sequences []uint64
	// Missing are the filter's ids that no dead letter has.
	Missing []string
	// Through is the last sequence that was looked at: the same selection made
	// later, up to here, holds nothing that failed since.
	Through uint64

	filter streams.Filter
}

// Select fixes a selection.
func (o *Ops) Select(ctx context.Context, f streams.Filter) (Selection, error) {
	letters := o.DeadLetters()
	last, err := letters.Last(ctx)
	if err != nil {
		return Selection{}, err
	}
	if f.Through == 0 {
		f.Through = last
	}
	f.WithoutPayload = true
	s := Selection{Missing: slices.Clone(f.IDs), Through: f.Through, filter: f}
	for letter, err := range letters.Select(ctx, f) {
		if err != nil {
			return Selection{}, err
		}
		s.Sequences = append(s.Sequences, letter.Sequence)
		s.Missing = slices.DeleteFunc(s.Missing, func(id string) bool { return id == letter.ID })
	}
	return s, nil
}

// assumedPerSecond is how many dead letters are decided a second where no rate
// holds them back: what a store that syncs every message manages on a small
// machine.
const assumedPerSecond = 500

// Estimate returns how long deciding about n dead letters takes, at most so
// many a second (0: as fast as it goes). It is a guess, for whoever decides.
func Estimate(n int, perSecond float64) time.Duration {
	if perSecond <= 0 || perSecond > assumedPerSecond {
		perSecond = assumedPerSecond
	}
	return time.Duration(float64(n) / perSecond * float64(time.Second)).Round(time.Millisecond)
}

// Decided is the outcome of a decision.
type Decided struct {
	// Matched is how many dead letters were selected.
	Matched int `json:"matched"`
	// Done is how many of them were replayed or discarded.
	Done int `json:"done"`
	// Skipped were gone when their turn came: somebody else was faster.
	Skipped int `json:"skipped"`
	// Failed are still there.
	Failed int `json:"failed"`
	// DryRun says that nothing was to be done.
	DryRun bool `json:"dryRun"`
}

// Left is how many are still to be decided.
func (d Decided) Left() int { return d.Matched - d.Done - d.Skipped - d.Failed }

// Options of Decide. The zero value decides as fast as it goes, and says
// nothing on the way.
type Options struct {
	// Why is the reason, for the record.
	Why string
	// PerSecond is the most decisions a second; 0 means no limit.
	PerSecond float64
	// Within is after how long it stops by itself, between two dead letters and
	// not before the first; Decided.Left says how many are left then. 0: not.
	Within time.Duration
	// Progress is called every few seconds. Nil: not.
	Progress func(Decided)
}

// progressEvery is how often a long run says how far it is.
const progressEvery = 2 * time.Second

// StoppedError says that a run ended before it was through. What is left is as
// it was.
type StoppedError struct {
	Decision Decision
	Decided  Decided
	// Err says why: the end of the context, or of JetStream's answers.
	Err error
}

func (e *StoppedError) Error() string {
	return fmt.Sprintf("stopped early, with %s not %s: %v", letters(e.Decided.Left()), e.Decision.Past, e.Err)
}

func (e *StoppedError) Unwrap() error { return e.Err }

// FailedError says that some dead letters could not be decided about and are
// still there.
type FailedError struct {
	Decision Decision
	Decided  Decided
	// Err is the first failure.
	Err error
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("%s could not be %s and are still there: %v", letters(e.Decided.Failed), e.Decision.Past, e.Err)
}

func (e *FailedError) Unwrap() error { return e.Err }

func letters(n int) string {
	if n == 1 {
		return "1 dead letter"
	}
	return fmt.Sprintf("%d dead letters", n)
}

// Decide carries a decision out on a selection. A capability whose stream is
// full or gone fails as a whole, one that is too large, or of a name that no app
// can have, alone, and the others go on (FailedError); when JetStream doesn't answer, or ctx ends, it stops
// (StoppedError).
func (o *Ops) Decide(ctx context.Context, by Actor, d Decision, s Selection, opts Options) (result Decided, err error) {
	if len(s.Sequences) == 0 {
		return Decided{}, nil
	}
	entry := streams.AuditEntry{
		What: d.what, App: s.filter.App, Capability: s.filter.Capability, Why: opts.Why, Before: document(s.record(opts)),
	}
	if len(s.filter.IDs) == 1 {
		entry.ID = s.filter.IDs[0]
	}
	err = o.Change(ctx, by, entry, func() error {
		result, err = o.carryOut(ctx, by, d, s.Sequences, opts)
		return err
	})
	return result, err
}

// maxRecorded is how many sequences are put on record one by one.
const maxRecorded = 1000

// record is what the audit holds of a selection.
func (s Selection) record(opts Options) map[string]any {
	r := map[string]any{"count": len(s.Sequences), "sequences": s.Sequences[:min(len(s.Sequences), maxRecorded)]}
	for name, value := range map[string]string{
		"ids": strings.Join(s.filter.IDs[:min(len(s.filter.IDs), maxRecorded)], ","), "reason": string(s.filter.Reason),
		"fingerprint": s.filter.Fingerprint,
	} {
		if value != "" {
			r[name] = value
		}
	}
	for name, t := range map[string]time.Time{"since": s.filter.Since, "until": s.filter.Until} {
		if !t.IsZero() {
			r[name] = t
		}
	}
	if opts.PerSecond > 0 {
		r["perSecond"] = opts.PerSecond
	}
	return r
}

func (o *Ops) carryOut(ctx context.Context, by Actor, d Decision, selected []uint64, opts Options) (Decided, error) {
	result := Decided{Matched: len(selected)}
	limit := rate.NewLimiter(rate.Inf, 1)
	if opts.PerSecond > 0 {
		limit.SetLimit(rate.Limit(opts.PerSecond))
	}
	failed := make(map[string]error) // by capability
	var first error
	began := time.Now()
	said := began
	for i, sequence := range selected {
		if i > 0 && opts.Within > 0 && time.Since(began) >= opts.Within {
			break
		}
		if err := limit.Wait(ctx); err != nil {
			return result, &StoppedError{d, result, err}
		}
		capability, err := o.one(ctx, by, d, sequence, opts.Why, failed)
		switch {
		case err == nil:
			result.Done++
		case errors.Is(err, streams.ErrGone):
			result.Skipped++
		case errors.Is(err, streams.ErrNoStream), errors.Is(err, streams.ErrStreamFull), errors.Is(err, streams.ErrTooLarge), errors.Is(err, streams.ErrNoSuchName):
			result.Failed++
			first = cmp.Or(first, err)
			if !errors.Is(err, streams.ErrTooLarge) && !errors.Is(err, streams.ErrNoSuchName) {
				failed[capability] = err
			}
		default:
			return result, &StoppedError{d, result, err}
		}
		if now := time.Now(); opts.Progress != nil && now.Sub(said) >= progressEvery {
			said = now
			opts.Progress(result)
		}
	}
	if first != nil {
		return result, &FailedError{d, result, first}
	}
	return result, nil
}

// actTimeout bounds what is done to one dead letter; it outlasts the election
// of a new leader (4 to 8 s).
const actTimeout = 15 * time.Second

// one decides about one dead letter, unless its capability has failed before.
// It ends what it has begun: the end of ctx takes effect between two dead letters.
func (o *Ops) one(ctx context.Context, by Actor, d Decision, sequence uint64, why string, failed map[string]error) (capability string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), actTimeout)
	defer cancel()
	letters := o.DeadLetters()
	letter, err := letters.Get(ctx, sequence)
	if err != nil {
		return "", err
	}
	if err := failed[letter.Capability]; err != nil {
		return letter.Capability, err
	}
	return letter.Capability, d.act(ctx, letters, letter, by, why)
}
