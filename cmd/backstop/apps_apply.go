package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
	"backstop/streams/secrets"
)

func newAppsApply(a *app, asJSON *bool) *cobra.Command {
	var secretFile string
	cmd := &cobra.Command{
		Use:   "apply FILE…",
		Short: "Add apps, or change them, by their manifests",
		Long: `Check all manifests (- for standard input) and store them, or none if one has a
mistake. Every running pipeline takes them up within a second. A new app gets a secret,
which is printed once and never again; hand it to the app's developers.`,
		Example: `  backstop apps apply quiz.json
  backstop apps apply manifests/*.json
  backstop apps apply quiz.json --secret-file quiz.secret
  backstop apps apply quiz.json --json | jq -r .secret > quiz.secret`,
		Args: func(cmd *cobra.Command, files []string) error {
			switch {
			case secretFile != "" && len(files) > 1:
				return errors.New("--secret-file goes with one manifest: two apps must not share a secret")
			case secretFile == "-" && slices.Contains(files, "-"):
				return errors.New("standard input can't be both manifest and secret")
			}
			return cobra.MinimumNArgs(1)(cmd, files)
		},
		RunE: func(cmd *cobra.Command, files []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				return a.apply(ctx, c, files, secretFile, *asJSON)
			})
		},
	}
	addSecretFile(cmd, &secretFile)
	return cmd
}

func (a *app) apply(ctx context.Context, c *client, files []string, secretFile string, asJSON bool) error {
	networks, err := c.ops.AllowedNetworks(ctx)
	if err != nil {
		return err
	}
	read, err := a.readManifests(files, networks)
	if err != nil {
		return err
	}
	if err := mistakes(read); err != nil {
		a.printProblems(read)
		return fmt.Errorf("%w; nothing was applied", err)
	}
	var given secrets.Secret
	if secretFile != "" {
		if given, err = a.readSecret(secretFile); err != nil {
			return err
		}
	}
	results := []ops.Applied{}
	for _, one := range read {
		var result ops.Applied
		if result, err = c.ops.Apply(ctx, byCommand(operator()), one.manifest, given, nil); err != nil {
			err = hint(fmt.Errorf("%s: %w", one.File, err), "the same again; a secret that was made for the app and not shown is replaced then")
			break
		}
		results = append(results, result)
	}
	// Also after an error: a secret that isn't printed now is lost.
	if printErr := a.printApplied(results, len(files) > 1, asJSON); err == nil {
		err = printErr
	}
	if err != nil {
		return err
	}
	return a.awaitStreams(ctx, c, read)
}

func (a *app) printApplied(results []ops.Applied, several, asJSON bool) error {
	if asJSON {
		switch {
		case several:
			return a.printJSON(results)
		case len(results) == 1:
			return a.printJSON(results[0])
		default:
			return nil
		}
	}
	for _, r := range results {
		verb := "Applied"
		if r.Created {
			verb = "Added"
		}
		if _, err := fmt.Fprintf(a.out, "%s %s (revision %d)\n", verb, r.AppID, r.Revision); err != nil {
			return err
		}
		if r.Secret == "" {
			continue
		}
		if _, err := fmt.Fprintf(a.out, "Secret: %s\n", r.Secret); err != nil {
			return err
		}
		a.notef("The secret of %s is shown this once; hand it to the app's developers.", r.AppID)
	}
	return nil
}

// How long apply waits for a pipeline to take the manifests up, and how often
// it looks. A running one needs well under a second.
const (
	takeUpTimeout = 5 * time.Second
	takeUpPoll    = 50 * time.Millisecond
)

// awaitStreams waits until events of every async webhook can be published,
// which is the pipeline's doing. A script may then publish at once. That
// nobody has taken the manifests up is no failure: they are stored.
func (a *app) awaitStreams(ctx context.Context, c *client, read []manifestFile) error {
	var waiting []string
	for _, one := range read {
		events, _ := ops.Capabilities(one.manifest)
		waiting = append(waiting, events...)
	}
	slices.Sort(waiting)
	waiting = slices.Compact(waiting)

	// One deadline for all: a cluster that is just electing the leader of a new
	// stream leaves the question for it unanswered.
	looking, cancel := context.WithTimeout(ctx, takeUpTimeout)
	defer cancel()
	for {
		without, err := c.withoutStream(looking, waiting)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case looking.Err() != nil:
			a.warnf("stored; no running Backstop has taken it up yet: events of %s can't be published until one does (is backstop serve running? Then its log says why)", strings.Join(waiting, ", "))
			return nil
		case err != nil || len(without) == 0:
			return err
		}
		waiting = without
		select {
		case <-looking.Done():
		case <-time.After(takeUpPoll):
		}
	}
}

// withoutStream returns those of the capabilities that have no stream, or a
// retired one.
func (c *client) withoutStream(ctx context.Context, capabilities []string) ([]string, error) {
	var without []string
	for _, capability := range capabilities {
		stream, err := c.js.Stream(ctx, streams.EventStream(capability))
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			without = append(without, capability)
		case err != nil:
			return nil, err
		case ops.Retired(stream.CachedInfo().Config, capability):
			without = append(without, capability)
		}
	}
	return without, nil
}
