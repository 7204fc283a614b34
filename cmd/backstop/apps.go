package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"backstop/streams"
	"backstop/streams/manifest"
	"backstop/streams/secrets"
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

// manifests opens the bucket of manifests.
func (c *client) manifests(ctx context.Context) (*manifest.Store, error) {
	kv, err := c.js.KeyValue(ctx, streams.AppsBucket)
	if err != nil {
		return nil, err
	}
	return manifest.NewStore(kv, nil), nil
}

// secrets opens the bucket of sealed secrets.
func (c *client) secrets(ctx context.Context) (*secrets.Store, error) {
	kv, err := c.js.KeyValue(ctx, streams.SecretsBucket)
	if err != nil {
		return nil, err
	}
	return secrets.NewStore(kv), nil
}

// manifest returns an app's manifest.
func (c *client) manifest(ctx context.Context, app string) (manifest.Manifest, error) {
	store, err := c.manifests(ctx)
	if err != nil {
		return manifest.Manifest{}, err
	}
	m, _, err := store.Get(ctx, app)
	return m, appError(app, err)
}

// appError adds to the error of a store what to do next.
func appError(app string, err error) error {
	switch {
	case errors.Is(err, manifest.ErrNotFound):
		return hint(fmt.Errorf("there is no app %q", app), "backstop apps list")
	case errors.As(err, new(manifest.Problems)):
		return hint(fmt.Errorf("the stored manifest of %s can't be read: %w", app, err), "backstop apps apply with a valid manifest")
	default:
		return err
	}
}

// checkDeclared returns an error that says what is declared instead, unless
// the endpoint is.
func (c *client) checkDeclared(ctx context.Context, id streams.EndpointID) error {
	m, err := c.manifest(ctx, id.App)
	if err != nil {
		return err
	}
	if _, ok := m.Webhooks[id.Capability]; !ok {
		return hint(fmt.Errorf("app %s declares no %q; it declares %s", id.App, id.Capability,
			strings.Join(slices.Sorted(maps.Keys(m.Webhooks)), ", ")), "backstop apps show %s", id.App)
	}
	return nil
}

// appArg is the argument APP.
func appArg(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return err
	}
	return streams.CheckName("app", args[0])
}

// capabilities returns what a manifest declares, as events and as calls.
func capabilities(m manifest.Manifest) (events, calls []string) {
	events, calls = []string{}, []string{}
	for _, e := range m.Endpoints(manifest.Defaults{}) {
		if e.Async {
			events = append(events, e.Capability)
		} else {
			calls = append(calls, e.Capability)
		}
	}
	return events, calls
}

// appView is an app in `apps list --json`.
type appView struct {
	AppID    string   `json:"appId"`
	Name     string   `json:"name"`
	BaseURL  string   `json:"baseUrl"`
	Events   []string `json:"events"`
	Calls    []string `json:"calls"`
	Revision uint64   `json:"revision"`
	// Health is nil for an app that is not checked.
	Health *streams.Health `json:"health"`
	// Error says why the manifest can't be read. Empty: it can.
	Error string `json:"error,omitempty"`
}

func newAppsList(a *app, asJSON *bool) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the apps and what they declare",
		Example: "  backstop apps list\n  backstop apps list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client) error {
				store, err := c.manifests(ctx)
				if err != nil {
					return err
				}
				apps, err := store.List(ctx)
				if err != nil {
					return err
				}
				health, err := c.healthByApp(ctx)
				if err != nil {
					return err
				}
				return a.printApps(apps, health, *asJSON)
			})
		},
	}
}

func (a *app) printApps(apps []manifest.Stored, health map[string]streams.Health, asJSON bool) error {
	views := make([]appView, len(apps))
	rows := make([][]string, len(apps))
	for i, s := range apps {
		v := appView{AppID: s.App, Revision: s.Revision, Events: []string{}, Calls: []string{}}
		state := "-"
		if h, checked := health[s.App]; checked {
			v.Health, state = &h, printable(string(h.State))
		}
		if s.Err != nil {
			v.Error = oneLine(s.Err.Error())
			rows[i] = []string{s.App, "-", clip("can't be read: "+v.Error, 60), "-", "-", state, strconv.FormatUint(s.Revision, 10)}
		} else {
			v.Name, v.BaseURL = s.Manifest.Title(), s.Manifest.BaseURL
			v.Events, v.Calls = capabilities(s.Manifest)
			rows[i] = []string{
				s.App, clip(v.Name, 30), clip(v.BaseURL, 60), dash(strings.Join(v.Events, ",")), dash(strings.Join(v.Calls, ",")),
				state, strconv.FormatUint(s.Revision, 10),
			}
		}
		views[i] = v
	}
	switch {
	case asJSON:
		return a.printJSON(views)
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
				m, err := c.manifest(ctx, args[0])
				if err != nil {
					return err
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

// removeApp removes the manifest first, so that nothing is sent any more by
// the time when it can't be signed. What is left over from a removal that was
// cut short is removed by the next.
func (a *app) removeApp(ctx context.Context, c *client, name string, force, asJSON bool) error {
	store, err := c.manifests(ctx)
	if err != nil {
		return err
	}
	sealed, err := c.secrets(ctx)
	if err != nil {
		return err
	}
	_, _, err = store.Get(ctx, name)
	missing := errors.Is(err, manifest.ErrNotFound)
	if err != nil && !missing && !errors.As(err, new(manifest.Problems)) {
		return err
	}
	leftover, err := sealed.Has(ctx, name)
	if err != nil {
		return err
	}
	if missing && !leftover {
		return appError(name, manifest.ErrNotFound)
	}
	if !force {
		if err := a.confirm(fmt.Sprintf("Really remove app %s and its secrets? Its waiting events become dead letters.", name)); err != nil {
			return err
		}
	}
	if err := store.Delete(ctx, name); err != nil && !errors.Is(err, manifest.ErrNotFound) {
		return err
	}
	if err := sealed.Delete(ctx, name); err != nil && !errors.Is(err, secrets.ErrNone) {
		return fmt.Errorf("the app is removed, but not its secrets; run it again: %w", err)
	}
	if err := c.clearGates(ctx, name); err != nil {
		return fmt.Errorf("the app is removed, but not its breakers; run it again: %w", err)
	}
	if asJSON {
		return a.printJSON(map[string]any{"appId": name, "removed": true})
	}
	_, err = fmt.Fprintf(a.out, "Removed %s.\n", name)
	return err
}

// clearGates removes what is recorded about an app's endpoints.
func (c *client) clearGates(ctx context.Context, app string) error {
	gates, err := c.gates(ctx)
	if err != nil {
		return err
	}
	all, err := gates.List(ctx)
	if err != nil {
		return err
	}
	for _, g := range all {
		if g.App != app {
			continue
		}
		if _, err := gates.ClearIf(ctx, g.ID(), func(streams.Gate) bool { return true }); err != nil {
			return err
		}
	}
	return nil
}
