package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"backstop/streams"
)

// gates opens the bucket in which circuits are open and endpoints disabled.
func (c *client) gates(ctx context.Context) (*streams.Gates, error) {
	kv, err := c.js.KeyValue(ctx, streams.BreakersBucket)
	if err != nil {
		return nil, err
	}
	return streams.NewGates(kv), nil
}

// listGates returns the gates in the order of their names, never nil.
func (c *client) listGates(ctx context.Context) ([]streams.Gate, error) {
	s, err := c.gates(ctx)
	if err != nil {
		return nil, err
	}
	gates, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(gates, func(x, y streams.Gate) int { return strings.Compare(x.ID().String(), y.ID().String()) })
	return append([]streams.Gate{}, gates...), nil
}

func (a *app) gateTable(gates []streams.Gate) error {
	now := time.Now()
	rows := make([][]string, len(gates))
	for i, g := range gates {
		probe := "-"
		if g.State == streams.GateOpen || g.State == streams.GateHalfOpen {
			probe = "now"
			if wait := g.Until.Sub(now); wait > 0 {
				probe = "in " + short(wait)
			}
		}
		rows[i] = []string{g.App, g.Capability, string(g.State), ago(now, g.Since), probe, dash(clip(g.By, 30)), dash(clip(g.Reason, 60))}
	}
	return a.table([]string{"APP", "CAPABILITY", "STATE", "FOR", "PROBE", "BY", "REASON"}, rows)
}

// disabled tells whether an endpoint is switched off, which outranks a breaker.
func disabled(g streams.Gate) bool { return g.State == streams.GateDisabled }

// gateState is what the commands that change a gate print as JSON.
type gateState struct {
	App        string `json:"app"`
	Capability string `json:"capability"`
	// State is a streams.GateState, or "closed" when traffic flows.
	State string `json:"state"`
	// Changed is false when it was so before.
	Changed bool `json:"changed"`
}

const stateClosed = "closed"

// announce tells people and services what an operator did to an endpoint. The
// pipeline announces only what it does itself. That nobody hears of it is no
// reason to fail: the gate is set.
func (a *app) announce(ctx context.Context, c *client, kind streams.NoticeKind, id streams.EndpointID, by, did, why string) {
	message := fmt.Sprintf("%s %s %s", by, did, id)
	if why != "" {
		message += ": " + why
	}
	notice := streams.Notice{
		Kind: kind, App: id.App, Capability: id.Capability, Time: time.Now().UTC(),
		Message: message, Details: map[string]any{"by": by, "reason": why},
	}
	msg, err := notice.Msg()
	if err == nil {
		_, err = c.js.PublishMsg(ctx, msg)
	}
	if err != nil {
		a.warnf("done, but the notice of it could not be published: %v", err)
	}
}

// checkEndpoint returns a usageError for names that no endpoint can have.
func checkEndpoint(id streams.EndpointID) error {
	if err := streams.CheckName("app", id.App); err != nil {
		return &usageError{err}
	}
	if err := streams.CheckName("capability", id.Capability); err != nil {
		return &usageError{err}
	}
	return nil
}

// endpointArgs are the arguments APP CAPABILITY.
func endpointArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(2)(cmd, args); err != nil {
		return err
	}
	return checkEndpoint(streams.EndpointID{App: args[0], Capability: args[1]})
}

// addBy gives a command the flag that says who decides, for the record.
func addBy(flags *pflag.FlagSet, by *string) {
	flags.StringVar(by, "by", operator(), "who decides this, for the record")
}

// operator returns user@host.
func operator() string {
	name := os.Getenv("USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		} else {
			name = "somebody"
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}
