package main

import (
	"context"
	"fmt"
	"time"

	"backstop/streams"
)

// sickApps returns the apps that are unhealthy or degraded, never nil.
func (c *client) sickApps(ctx context.Context) ([]streams.Health, error) {
	sick := []streams.Health{}
	store, err := c.ops.Healths(ctx)
	if err != nil {
		return sick, err
	}
	list, err := store.List(ctx)
	for _, h := range list {
		if h.State == streams.Unhealthy || h.State == streams.Degraded {
			sick = append(sick, h)
		}
	}
	return sick, err
}

// noteHealth tells how an app is, beside its manifest. Silent for one that is
// not checked.
func (a *app) noteHealth(ctx context.Context, c *client, app string) error {
	store, err := c.ops.Healths(ctx)
	if err != nil {
		return err
	}
	h, there, err := store.Get(ctx, app)
	if err != nil || !there {
		return err
	}
	now := time.Now()
	text := fmt.Sprintf("Health: %s for %s; checked %s ago", printable(string(h.State)), ago(now, h.Since), ago(now, h.CheckedAt))
	if h.Error != "" {
		text += ": " + clip(h.Error, 120)
	}
	a.notef("%s. Metrics: %s.", text, printable(string(h.Metrics)))
	return nil
}

// printSickApps shows the apps that are not healthy, and how they were found.
func (a *app) printSickApps(s status) error {
	a.section("Unhealthy apps")
	if len(s.UnhealthyApps) == 0 {
		_, err := fmt.Fprintln(a.out, "None among those that are checked.")
		return err
	}
	rows := make([][]string, len(s.UnhealthyApps))
	for i, h := range s.UnhealthyApps {
		rows[i] = []string{printable(h.App), printable(string(h.State)), ago(s.Time, h.Since), ago(s.Time, h.CheckedAt) + " ago", dash(clip(h.Error, 80))}
	}
	return a.table([]string{"APP", "HEALTH", "FOR", "CHECKED", "ERROR"}, rows)
}
