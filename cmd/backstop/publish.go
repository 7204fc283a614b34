package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"backstop/streams"
)

type publishOptions struct {
	id        string
	broadcast bool
	raw       bool
	json      bool
}

func newPublishCommand(a *app) *cobra.Command {
	var o publishOptions
	cmd := &cobra.Command{
		Use:   "publish CAPABILITY APP [JSON|@FILE|-]",
		Short: "Publish an event",
		Long: `Publish an event for one app, or with --broadcast for every app that declares
the capability as async. It is sent byte for byte, and accepted once its id is printed.

The payload is JSON on the command line, in a file (@FILE), or on standard input
(- or nothing).`,
		Example: `  backstop publish analytics quiz '{"event":"quiz_completed","score":7}'
  backstop publish analytics quiz @event.json --id order-4711
  backstop publish analytics --broadcast - < event.json`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case !o.broadcast:
				return endpointAndPayload(args)
			case len(args) < 1:
				return errors.New("want CAPABILITY --broadcast [JSON|@FILE|-]")
			case len(args) > 2:
				return fmt.Errorf("%q is one too many: quote the JSON", args[2])
			default:
				return nil
			}
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.publish(cmd, o, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.id, "id", "", "the event's id, which the app sees as X-Request-ID (default: a new one)")
	flags.BoolVar(&o.broadcast, "broadcast", false, "for every app that declares the capability as async, instead of APP")
	flags.BoolVar(&o.raw, "raw", false, "don't check the payload, to see what becomes of a bad one")
	addJSON(flags, &o.json)
	return cmd
}

func (a *app) publish(cmd *cobra.Command, o publishOptions, args []string) error {
	to := streams.EndpointID{Capability: args[0]}
	args = args[1:]
	if !o.broadcast {
		to.App, args = args[0], args[1:]
		if err := streams.CheckName("app", to.App); err != nil {
			return &usageError{err}
		}
	}
	if err := streams.CheckName("capability", to.Capability); err != nil {
		return &usageError{err}
	}
	if o.id != "" {
		if err := streams.CheckID(o.id); err != nil {
			return &usageError{err}
		}
	}
	payload, err := a.checkedPayload(args, o.raw)
	if err != nil {
		return err
	}
	return a.withClient(cmd, func(ctx context.Context, c *client) error {
		receipt, err := streams.NewPublisher(c.js).Publish(ctx, to, o.id, payload)
		if err != nil {
			return err
		}
		return a.printReceipt(receipt, o.json)
	})
}

// checkedPayload reads the payload from the last argument, which may be
// missing, and unless raw finds here what would be refused there.
func (a *app) checkedPayload(args []string, raw bool) ([]byte, error) {
	source := "-"
	if len(args) == 1 {
		source = args[0]
	}
	payload, err := a.payload(source)
	if err == nil && !raw {
		err = hint(checkPayload(payload), "--raw sends it all the same")
	}
	return payload, err
}

// payload reads what a command sends: the text itself, @FILE, or - for
// standard input. It is not touched.
func (a *app) payload(source string) ([]byte, error) {
	switch {
	case source == "-":
		if isTerminal(a.in) {
			a.notef("Reading the payload from standard input; Ctrl-D ends it.")
		}
		return a.readPayload("-")
	case strings.HasPrefix(source, "@"):
		return a.readPayload(source[1:])
	default:
		return []byte(source), nil
	}
}

// maxRead bounds what is read for a payload: the most that any NATS server
// takes, and so beyond what can be sent even with --raw.
const maxRead = 64 << 20

func (a *app) readPayload(name string) ([]byte, error) {
	payload, err := a.readFile(name, maxRead)
	if err == nil && len(payload) > maxRead {
		err = fmt.Errorf("%s: more than %d MiB; an event has at most %d KiB", name, maxRead>>20, streams.MaxPayload>>10)
	}
	return payload, err
}

// checkPayload finds here what would make the event a dead letter there.
func checkPayload(payload []byte) error {
	switch {
	case len(payload) == 0:
		return errors.New("the payload is empty: an event carries JSON")
	case len(payload) > streams.MaxPayload:
		return fmt.Errorf("the payload has %d bytes: at most %d KiB", len(payload), streams.MaxPayload>>10)
	}
	var value json.RawMessage
	if err := json.Unmarshal(payload, &value); err != nil {
		return fmt.Errorf("the payload is not JSON: %w", err)
	}
	return nil
}

func (a *app) printReceipt(r streams.Receipt, asJSON bool) error {
	if asJSON {
		return a.printJSON(r)
	}
	verb := "accepted"
	if r.Duplicate {
		verb = "accepted before; nothing was added"
	}
	_, err := fmt.Fprintf(a.out, "%s  %s (%s, sequence %d)\n", r.ID, verb, r.Stream, r.Sequence)
	return err
}
