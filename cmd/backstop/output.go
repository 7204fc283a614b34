package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"
)

// addJSON gives a command, or a group of them, the flag --json.
func addJSON(flags *pflag.FlagSet, asJSON *bool) {
	flags.BoolVar(asJSON, "json", false, "print JSON, for programs")
}

// printJSON prints v as one indented document.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints rows under headings, in aligned columns.
func (a *app) table(headings []string, rows [][]string) error {
	tw := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(headings, "\t"))
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

// line prints one of many that come one after another, where no table can be
// aligned: its cells, or with asJSON the document on one line.
func (a *app) line(asJSON bool, v any, cells []string) error {
	if !asJSON {
		_, err := fmt.Fprintln(a.out, strings.Join(cells, "  "))
		return err
	}
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// notef tells a person something on the way, on standard error.
func (a *app) notef(format string, args ...any) {
	fmt.Fprintf(a.err, format+"\n", args...)
}

// warnf tells a person that something may not be as they wish.
func (a *app) warnf(format string, args ...any) {
	a.notef("backstop: warning: "+format, args...)
}

// confirm asks a yes-or-no question before something that can't be taken back,
// and returns nil only for a yes. Where nobody can answer it refuses, so that
// a script has to say --force.
func (a *app) confirm(question string) error {
	refused := hint(errors.New("this needs a yes, and standard input is not a terminal; nothing was done"), "the same with --force")
	if !isTerminal(a.in) {
		return refused
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(a.err)
		return refused
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	default:
		return errors.New("not confirmed; nothing was done")
	}
}

// isTerminal tells whether a person may be at the other end. /dev/null passes
// for one, and answers nothing.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// ago says how long before now t was, in the coarsest unit that tells
// something: "3m20s", "5h10m", "12d".
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return short(now.Sub(t))
}

// short prints a duration with at most two units.
func short(d time.Duration) string {
	const day = 24 * time.Hour
	d = max(d, 0)
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 2*day:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	default:
		return fmt.Sprintf("%dd", int(d/day))
	}
}

// clip shortens s to at most n characters, for a column of a table, and keeps
// control characters (an app's error is anybody's text) off the terminal.
func clip(s string, n int) string {
	runes := []rune(printable(s))
	if len(runes) <= n {
		return string(runes)
	}
	return string(runes[:n-1]) + "…"
}

// printable replaces what a terminal could take for a command.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// dash stands for an empty cell.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// plural returns "1 thing" or "3 things".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
