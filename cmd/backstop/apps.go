package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
	"backstop/streams/manifest"
)

func newAppsCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "apps",
		Short: "Apps: apply their manifests, see, switch and remove them",
		Example: `  backstop apps validate quiz.json
  backstop apps apply quiz.json
  backstop apps list
  backstop apps rotate-secret quiz
  backstop apps disable quiz analytics --reason "moves to another host"`,
	}
	addJSON(cmd.PersistentFlags(), &asJSON)
	cmd.AddCommand(
		newAppsApply(a, &asJSON), newAppsList(a, &asJSON), newAppsShow(a), newAppsRemove(a, &asJSON),
		newAppsValidate(a, &asJSON), newAppsSchema(a), newAppsRotateSecret(a, &asJSON),
		newAppsEnable(a, &asJSON), newAppsDisable(a, &asJSON),
	)
	return cmd
}

// appError adds to the error of a store what to do next.
func appError(app string, err error) error {
	switch {
	case errors.Is(err, manifest.ErrNotFound):
		return hint(fmt.Errorf("there is no app %q", app), "backstop apps list")
	case errors.As(err, new(manifest.Problems)):
		return hint(fmt.Errorf("the stored manifest of %s can't be read: %w", app, err), "backstop apps apply with a valid manifest")
	case errors.As(err, new(*ops.NotDeclaredError)):
		return hint(err, "backstop apps show %s", app)
	default:
		return err
	}
}

// appArg is the argument APP.
func appArg(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return err
	}
	return streams.CheckName("app", args[0])
}

func newAppsList(a *app, asJSON *bool) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the apps and what they declare",
		Example: "  backstop apps list\n  backstop apps list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				apps, err := c.ops.Apps(ctx)
				if err != nil {
					return err
				}
				return a.printApps(apps, *asJSON)
			})
		},
	}
}

func (a *app) printApps(apps []ops.App, asJSON bool) error {
	rows := make([][]string, len(apps))
	for i, v := range apps {
		state := "-"
		if v.Health != nil {
			state = printable(string(v.Health.State))
		}
		if v.Error != "" {
			rows[i] = []string{v.AppID, "-", clip("can't be read: "+v.Error, 60), "-", "-", state, strconv.FormatUint(v.Revision, 10)}
		} else {
			rows[i] = []string{
				v.AppID, clip(v.Name, 30), clip(v.BaseURL, 60), dash(strings.Join(v.Events, ",")), dash(strings.Join(v.Calls, ",")),
				state, strconv.FormatUint(v.Revision, 10),
			}
		}
	}
	switch {
	case asJSON:
		return a.printJSON(apps)
	case len(rows) == 0:
		a.notef("No apps yet; backstop apps apply FILE adds one.")
		return nil
	default:
		return a.table([]string{"APP", "NAME", "BASE URL", "EVENTS", "CALLS", "HEALTH", "REVISION"}, rows)
	}
}

func newAppsShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show APP",
		Short: "Show an app's manifest, fit to be edited and applied again",
		Long: `Show an app's manifest on standard output, fit to be edited and applied again, and
on standard error how its health is, if it is checked.`,
		Example: `  backstop apps show quiz
  backstop apps show quiz > quiz.json`,
		Args: appArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				m, _, err := c.ops.Manifest(ctx, args[0])
				if err != nil {
					return appError(args[0], err)
				}
				text, err := m.JSON()
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(a.out, "%s\n", text); err != nil {
					return err
				}
				return a.noteHealth(ctx, c, args[0])
			})
		},
	}
}

func newAppsSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of a manifest, for editors and other languages",
		Example: "  backstop apps schema > manifest.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(manifest.Schema())
			return err
		},
	}
}

func newAppsRemove(a *app, asJSON *bool) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "remove APP",
		Short: "Remove an app, its secrets and its breakers",
		Long: `Remove an app's manifest, its secrets and what is recorded about its breakers.
Events that still wait for it become dead letters (no_route), which can be replayed
when the app is back.`,
		Example: "  backstop apps remove quiz\n  backstop apps remove quiz --force",
		Args:    appArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				return a.removeApp(ctx, c, args[0], force, *asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "don't ask")
	return cmd
}

func (a *app) removeApp(ctx context.Context, c *client, name string, force, asJSON bool) error {
	if err := c.ops.CheckRemovable(ctx, name); err != nil {
		return appError(name, err)
	}
	if !force {
		if err := a.confirm(fmt.Sprintf("Really remove app %s and its secrets? Its waiting events become dead letters.", name)); err != nil {
			return err
		}
	}
	if err := c.ops.Remove(ctx, byCommand(operator()), name, nil); err != nil {
		return appError(name, err)
	}
	if asJSON {
		return a.printJSON(map[string]any{"appId": name, "removed": true})
	}
	_, err := fmt.Fprintf(a.out, "Removed %s.\n", name)
	return err
}
