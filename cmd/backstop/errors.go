package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes, as in the contract's section 12.
const (
	exitOK     = 0
	exitFailed = 1 // the command was understood, and failed
	exitUsage  = 2 // the command line was wrong; nothing was tried
)

// usageError is a command line that can't be right.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usageErrorf returns an error that exits with exitUsage.
func usageErrorf(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// hintedError is an error with the next step, which is printed on a line of
// its own.
type hintedError struct {
	err error
	try string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// hint adds what to try to an error. An error that has a hint keeps it: the
// place nearest to the fault knows best.
func hint(err error, format string, args ...any) error {
	if _, has := errors.AsType[*hintedError](err); has || err == nil {
		return err
	}
	return &hintedError{err: err, try: fmt.Sprintf(format, args...)}
}

var errInterrupted = errors.New("interrupted")

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if _, usage := errors.AsType[*usageError](err); usage {
		return exitUsage
	}
	return exitFailed
}

// printError tells err in one line, and in a second one what to try.
func printError(w io.Writer, err error) {
	if err == nil {
		return
	}
	fmt.Fprintf(w, "backstop: %s\n", oneLine(err.Error()))
	if hinted, ok := errors.AsType[*hintedError](err); ok {
		fmt.Fprintf(w, "Try: %s\n", hinted.try)
	}
}

// oneLine joins the lines of s: an error of a library may have several, and a
// log has one for each error.
func oneLine(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// strictUsage makes every wrong command line below cmd a usageError that says
// how it goes. Cobra itself takes an unknown word after a group such as "apps"
// for a wish for help, which a script would read as success.
func strictUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return hint(&usageError{err}, "%s --help", c.CommandPath())
	})
	for _, sub := range cmd.Commands() {
		strictUsage(sub)
	}
	switch {
	case cmd.HasSubCommands() && !cmd.Runnable():
		cmd.Args = unknownCommand
		cmd.RunE = func(c *cobra.Command, _ []string) error {
			if !c.HasParent() {
				return c.Help()
			}
			return hint(usageErrorf("%s: which command?", c.CommandPath()), "%s --help", c.CommandPath())
		}
	case cmd.Name() == "help":
		cmd.Args = helpTopic
	case cmd.Args != nil:
		check := cmd.Args
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return hint(&usageError{fmt.Errorf("%s: %w", c.CommandPath(), err)}, "%s", c.UseLine())
			}
			return nil
		}
	}
}

// helpTopic checks the arguments of `help`, for which cobra itself takes any.
func helpTopic(c *cobra.Command, args []string) error {
	topic, rest, err := c.Root().Find(args)
	if err != nil || len(rest) > 0 {
		return unknownCommand(topic, rest)
	}
	return nil
}

func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	where := ""
	if c.HasParent() {
		where = c.CommandPath() + ": "
	}
	err := usageErrorf("%sunknown command %q", where, args[0])
	c.SuggestionsMinimumDistance = 2 // edits, as cobra itself sets it where it suggests
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return hint(err, "%s %s", c.CommandPath(), near[0])
	}
	return hint(err, "%s --help", c.CommandPath())
}
