package main

import (
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

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

// byCommand is who uses a command.
func byCommand(name string) ops.Actor { return ops.Actor{Name: name, Via: ops.ViaCommand} }

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
