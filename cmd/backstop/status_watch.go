package main

import (
	"context"
	"fmt"
	"time"
)

const (
	// watchPause is between two looks that measure no rates.
	watchPause = 2 * time.Second
	// clearScreen begins a new picture where the last one was.
	clearScreen = "\x1b[H\x1b[2J"
)

// watchStatus shows the overview until ctx ends. That NATS is away for a while
// is told, and no reason to end.
func (a *app) watchStatus(ctx context.Context, c *client, interval time.Duration, asJSON bool) error {
	for first := true; ; first = false {
		s, err := c.status(ctx, interval)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it ended because it was told to
		case err == nil:
			if err := a.showStatus(s, first, asJSON); err != nil {
				return err
			}
		case first:
			return err
		default:
			a.warnf("%v", err)
		}
		if interval == 0 || err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
	}
}

// showStatus shows one of many overviews: on a terminal in the place of the last.
func (a *app) showStatus(s status, first, asJSON bool) error {
	switch {
	case asJSON:
		return a.line(true, s, nil)
	case isTerminal(a.out):
		fmt.Fprint(a.out, clearScreen)
	case !first:
		fmt.Fprintln(a.out)
	}
	fmt.Fprintf(a.out, "%s\n\n", s.Time.Format(time.RFC3339))
	return a.printStatus(s)
}
