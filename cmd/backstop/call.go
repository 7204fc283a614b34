package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"backstop/streams"
)

type callOptions struct {
	id      string
	timeout time.Duration
	raw     bool
	json    bool
}

func newCallCommand(a *app) *cobra.Command {
	var o callOptions
	cmd := &cobra.Command{
		Use:   "call CAPABILITY APP [JSON|@FILE|-]",
		Short: "Make a call, and wait for the answer",
		Long: `Ask an app something, as a service would, and print the answer's data; who
answered, and why it wasn't the app, goes to standard error. A call that nobody
could answer exits with 1.

The payload is JSON on the command line, in a file (@FILE), or on standard input
(- or nothing).`,
		Example: `  backstop call quizAnswer quiz '{"quizId":"q1","answer":"B"}'
  backstop call winnerSelection lottery @draw.json --timeout 3s --json`,
		Args: func(_ *cobra.Command, args []string) error { return endpointAndPayload(args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.timeout <= 0 {
				return usageErrorf("--timeout %v: want a time that is left, such as 2s", o.timeout)
			}
			return a.call(cmd, o, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.id, "id", "", "the call's id, which the app sees as X-Request-ID (default: a new one)")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait; the webhook's own timeout holds when it is shorter")
	flags.BoolVar(&o.raw, "raw", false, "don't check the payload, to see what becomes of a bad one")
	addJSON(flags, &o.json)
	return cmd
}

// endpointAndPayload checks the arguments CAPABILITY APP [JSON|@FILE|-].
func endpointAndPayload(args []string) error {
	switch {
	case len(args) < 2:
		return errors.New("want CAPABILITY APP [JSON|@FILE|-]")
	case len(args) > 3:
		return fmt.Errorf("%q is one too many: quote the JSON", args[3])
	}
	return nil
}

func (a *app) call(cmd *cobra.Command, o callOptions, args []string) error {
	to := streams.EndpointID{Capability: args[0], App: args[1]}
	if err := checkEndpoint(to); err != nil {
		return err
	}
	if o.id != "" {
		if err := streams.CheckID(o.id); err != nil {
			return &usageError{err}
		}
	}
	payload, err := a.checkedPayload(args[2:], o.raw)
	if err != nil {
		return err
	}
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		ctx, cancel := context.WithTimeout(ctx, o.timeout)
		defer cancel()
		reply, err := streams.NewCaller(c.nc).Call(ctx, to, o.id, payload)
		_, answered := errors.AsType[*streams.CallError](err)
		switch {
		case errors.Is(err, streams.ErrNoBackstop):
			return hint(err, "start `backstop serve`, or set NATS_URL to the NATS that it runs on")
		case err != nil && !answered:
			return err
		case o.json:
			return errors.Join(a.printJSON(reply), err)
		case err != nil:
			return err
		}
		a.notef("%s", sentence(reply))
		_, err = fmt.Fprintf(a.out, "%s\n", orNull(reply.Data))
		return err
	})
}

// orNull is an answer's data to print; an app may answer without.
func orNull(data []byte) []byte {
	if len(data) == 0 {
		return []byte("null")
	}
	return data
}

// sourceNames say who answered a call.
var sourceNames = map[streams.Source]string{
	streams.SourceApp:     "Answered by the app",
	streams.SourceCache:   "Answered by the cache",
	streams.SourceDefault: "Answered by the platform's default",
	streams.SourceQueued:  "Queued as an event",
	streams.SourcePending: "Pending",
	streams.SourceNone:    "Answered by nobody",
}

// sentence says who answered, why, and how long it took.
func sentence(r streams.Reply) string {
	who := sourceNames[r.Source]
	if r.Source == streams.SourceCache {
		who += ", " + short(r.Age()) + " old"
	}
	if r.Reason != "" {
		who += " (" + r.Reason + ")"
	}
	return fmt.Sprintf("%s after %d ms, id %s.", who, r.DurationMs, printable(r.RequestID))
}
