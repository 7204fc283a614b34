package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"backstop/streams"
)

// decision is what replay and discard have in common: they select dead
// letters, ask, and then do one thing to each.
type decision struct {
	verb, past string // "replay", "replayed"
	// askFrom is from how many dead letters on it asks for a yes.
	askFrom int
	filter  filterOptions
	all     bool
	dryRun  bool
	force   bool
	rate    string
	act     func(context.Context, *streams.DeadLetters, streams.DeadLetter) error
}

func newDLQReplay(a *app, asJSON *bool) *cobra.Command {
	d := &decision{verb: "replay", past: "replayed", askFrom: 2}
	cmd := &cobra.Command{
		Use:   "replay {ID… | FILTER… | --all}",
		Short: "Publish dead letters again, with the same X-Request-ID",
		Long: `Publish the events of dead letters again, oldest first, and remove the dead
letters. The app sees the same X-Request-ID; the attempts are counted anew.
Replaying a dead letter twice by accident makes one delivery.`,
		Example: `  backstop dlq replay 7PZ3Q0KX
  backstop dlq replay --app quiz --since 2h --dry-run
  backstop dlq replay --app quiz --since 2h --rate 50/s --force`,
	}
	d.act = func(ctx context.Context, s *streams.DeadLetters, l streams.DeadLetter) error { return s.Replay(ctx, l) }
	a.decisionCommand(cmd, d, asJSON)
	return cmd
}

func newDLQDiscard(a *app, asJSON *bool) *cobra.Command {
	var by, why string
	d := &decision{verb: "discard", past: "discarded", askFrom: 1}
	cmd := &cobra.Command{
		Use:   "discard {ID… | FILTER… | --all}",
		Short: "Remove dead letters for good, on the record",
		Long: `Remove dead letters for good. A notice records each of them, with who decided
it and why.`,
		Example: `  backstop dlq discard 7PZ3Q0KX --why "test data"
  backstop dlq discard --reason bad_payload --dry-run
  backstop dlq discard --reason bad_payload --by ann --force`,
	}
	addBy(cmd.Flags(), &by)
	cmd.Flags().StringVar(&why, "why", "", "why, for the record")
	d.act = func(ctx context.Context, s *streams.DeadLetters, l streams.DeadLetter) error {
		return s.Discard(ctx, l, by, why)
	}
	a.decisionCommand(cmd, d, asJSON)
	return cmd
}

// decisionCommand gives cmd the flags and the run of a decision.
func (a *app) decisionCommand(cmd *cobra.Command, d *decision, asJSON *bool) {
	d.filter.register(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&d.all, "all", false, "all dead letters, without a filter")
	flags.BoolVar(&d.dryRun, "dry-run", false, "only list what would be "+d.past)
	flags.BoolVar(&d.force, "force", false, "don't ask")
	flags.StringVar(&d.rate, "rate", "", "at most so many a second, such as 50/s")
	cmd.Args = func(_ *cobra.Command, ids []string) error {
		switch given := len(ids) > 0 || !d.filter.none(); {
		case !given && !d.all:
			return errors.New("which dead letters? Give their IDs, a filter, or --all")
		case given && d.all:
			return errors.New("--all excludes IDs and filters")
		default:
			return nil
		}
	}
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		filter, err := d.filter.filter(time.Now(), ids)
		if err != nil {
			return err
		}
		perSecond, err := perSecond(d.rate)
		if err != nil {
			return err
		}
		return a.withClient(cmd, func(ctx context.Context, c *client) error {
			return a.decide(ctx, c, d, filter, perSecond, *asJSON)
		})
	}
}

// decided is the outcome of a decision, as it is printed.
type decided struct {
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
	// DeadLetters is what a dry run would have decided about.
	DeadLetters []deadLetterView `json:"deadLetters,omitempty"`
}

func (a *app) decide(ctx context.Context, c *client, d *decision, filter streams.Filter, perSecond float64, asJSON bool) error {
	if d.dryRun {
		return a.dryRun(ctx, c, d, filter, asJSON)
	}
	// The selection is fixed before anything happens, as sequences alone: what
	// is replayed and fails again comes back as another dead letter, which
	// nobody has decided about, and payloads would fill the memory.
	var selected []uint64
	missing := slices.Clone(filter.IDs)
	for letter, err := range streams.NewDeadLetters(c.js).Select(ctx, filter) {
		if err != nil {
			return err
		}
		selected = append(selected, letter.Sequence)
		missing = slices.DeleteFunc(missing, func(id string) bool { return id == letter.ID })
	}
	if len(selected) == 0 && len(missing) > 0 {
		return hint(fmt.Errorf("no dead letter of event %s; it may have been replayed or discarded already", strings.Join(missing, ", ")), "backstop dlq list")
	}
	if len(missing) > 0 {
		a.warnf("no dead letter of event %s; it may have been replayed or discarded already", strings.Join(missing, ", "))
	}
	if len(selected) >= d.askFrom && !d.force {
		if err := a.confirm(fmt.Sprintf("Really %s %s?", d.verb, plural(len(selected), "dead letter"))); err != nil {
			return err
		}
	}
	result, err := a.carryOut(ctx, c, d, selected, perSecond)
	if printErr := a.printDecided(d, result, asJSON); err == nil {
		err = printErr
	}
	return err
}

func (a *app) dryRun(ctx context.Context, c *client, d *decision, filter streams.Filter, asJSON bool) error {
	now := time.Now()
	result := decided{DryRun: true, DeadLetters: []deadLetterView{}}
	var rows [][]string
	for letter, err := range streams.NewDeadLetters(c.js).Select(ctx, filter) {
		if err != nil {
			return err
		}
		result.Matched++
		if asJSON {
			result.DeadLetters = append(result.DeadLetters, viewDeadLetter(letter))
		} else {
			rows = append(rows, deadLetterRow(now, letter))
		}
	}
	if asJSON {
		return a.printJSON(result)
	}
	if len(rows) > 0 {
		if err := a.table(deadLetterHeadings(), rows); err != nil {
			return err
		}
	}
	a.notef("%s would be %s; nothing was done.", plural(result.Matched, "dead letter"), d.past)
	return nil
}

// progressEvery is how often a long run says how far it is.
const progressEvery = 2 * time.Second

// carryOut decides about each selected dead letter. A capability whose stream
// is full or gone fails as a whole, one that is too large alone, and the others
// go on; when JetStream doesn't answer, or on Ctrl-C, it ends.
func (a *app) carryOut(ctx context.Context, c *client, d *decision, selected []uint64, perSecond float64) (decided, error) {
	result := decided{Matched: len(selected)}
	limit := rate.NewLimiter(rate.Inf, 1)
	if perSecond > 0 {
		limit.SetLimit(rate.Limit(perSecond))
	}
	stream, err := c.js.Stream(ctx, streams.DeadLetterStream)
	if err != nil {
		return result, err
	}
	letters := streams.NewDeadLetters(c.js)
	failed := make(map[string]error) // by capability
	var first error
	said := time.Now()
	for _, sequence := range selected {
		if err := limit.Wait(ctx); err != nil {
			return result, stoppedEarly(d, result, err)
		}
		capability, err := d.one(ctx, letters, stream, sequence, failed)
		switch {
		case err == nil:
			result.Done++
		case errors.Is(err, streams.ErrGone):
			result.Skipped++
		case errors.Is(err, streams.ErrNoStream), errors.Is(err, streams.ErrStreamFull), errors.Is(err, streams.ErrTooLarge):
			result.Failed++
			first = cmp.Or(first, err)
			if !errors.Is(err, streams.ErrTooLarge) {
				failed[capability] = err
			}
		default:
			return result, stoppedEarly(d, result, err)
		}
		if now := time.Now(); now.Sub(said) >= progressEvery {
			said = now
			a.notef("%s %d of %d", d.past, result.Done, result.Matched)
		}
	}
	if first != nil {
		return result, fmt.Errorf("%s could not be %s and are still there: %w", plural(result.Failed, "dead letter"), d.past, first)
	}
	return result, nil
}

// actTimeout bounds what is done to one dead letter; it outlasts the election
// of a new leader (4 to 8 s).
const actTimeout = 15 * time.Second

// one decides about one dead letter, unless its capability has failed before.
// It ends what it has begun: Ctrl-C takes effect between two dead letters.
func (d *decision) one(ctx context.Context, letters *streams.DeadLetters, stream jetstream.Stream, sequence uint64, failed map[string]error) (capability string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), actTimeout)
	defer cancel()
	letter, err := readDeadLetter(ctx, stream, sequence)
	if err != nil {
		return "", err
	}
	if err := failed[letter.Capability]; err != nil {
		return letter.Capability, err
	}
	return letter.Capability, d.act(ctx, letters, letter)
}

func stoppedEarly(d *decision, result decided, err error) error {
	if errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	left := result.Matched - result.Done - result.Skipped
	return fmt.Errorf("stopped early, with %s not %s; the same command goes on: %w", plural(left, "dead letter"), d.past, err)
}

// readDeadLetter returns a dead letter as it is now, or streams.ErrGone.
func readDeadLetter(ctx context.Context, stream jetstream.Stream, sequence uint64) (streams.DeadLetter, error) {
	msg, err := stream.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return streams.DeadLetter{}, streams.ErrGone
	}
	if err != nil {
		return streams.DeadLetter{}, err
	}
	return streams.DecodeDeadLetter(msg.Subject, msg.Header, msg.Data, msg.Sequence)
}

func (a *app) printDecided(d *decision, result decided, asJSON bool) error {
	if asJSON {
		return a.printJSON(result)
	}
	text := fmt.Sprintf("%s %s", plural(result.Done, "dead letter"), d.past)
	if result.Skipped > 0 {
		text += fmt.Sprintf("; %d skipped, as somebody else was faster", result.Skipped)
	}
	if result.Failed > 0 {
		text += fmt.Sprintf("; %d failed", result.Failed)
	}
	_, err := fmt.Fprintln(a.out, text+".")
	return err
}
