package ops

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"backstop/streams"
	"backstop/streams/killpoint"
	"backstop/streams/manifest"
	"backstop/streams/secrets"
)

// App is an app in a list.
type App struct {
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

// Apps returns all apps, by name, never nil.
func (o *Ops) Apps(ctx context.Context) ([]App, error) {
	store, err := o.Manifests(ctx)
	if err != nil {
		return nil, err
	}
	stored, err := store.List(ctx)
	if err != nil {
		return nil, err
	}
	health, err := o.HealthByApp(ctx)
	if err != nil {
		return nil, err
	}
	apps := make([]App, len(stored))
	for i, s := range stored {
		apps[i] = describe(s)
		if h, checked := health[s.App]; checked {
			apps[i].Health = &h
		}
	}
	return apps, nil
}

// Healths opens the bucket of health checks.
func (o *Ops) Healths(ctx context.Context) (*streams.Healths, error) {
	kv, err := o.js.KeyValue(ctx, streams.HealthBucket)
	if err != nil {
		return nil, err
	}
	return streams.NewHealths(kv), nil
}

// HealthByApp returns what is known about each app that is checked.
func (o *Ops) HealthByApp(ctx context.Context) (map[string]streams.Health, error) {
	store, err := o.Healths(ctx)
	if err != nil {
		return nil, err
	}
	list, err := store.List(ctx)
	byApp := make(map[string]streams.Health, len(list))
	for _, h := range list {
		byApp[h.App] = h
	}
	return byApp, err
}

// describe returns an app as a list shows it, but for its health.
func describe(s manifest.Stored) App {
	a := App{AppID: s.App, Revision: s.Revision, Events: []string{}, Calls: []string{}}
	if s.Err != nil {
		a.Error = strings.Join(strings.Split(s.Err.Error(), "\n"), "; ")
		return a
	}
	a.Name, a.BaseURL = s.Manifest.Title(), s.Manifest.BaseURL
	a.Events, a.Calls = Capabilities(s.Manifest)
	return a
}

// Capabilities returns what a manifest declares, as events and as calls.
func Capabilities(m manifest.Manifest) (events, calls []string) {
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

// Manifest returns an app's manifest and its revision; the errors are those of
// manifest.Store.Get.
func (o *Ops) Manifest(ctx context.Context, app string) (manifest.Manifest, uint64, error) {
	store, err := o.Manifests(ctx)
	if err != nil {
		return manifest.Manifest{}, 0, err
	}
	return store.Get(ctx, app)
}

// AllowedNetworks returns what the pipeline notes on the apps bucket and what
// our own environment allows: the first is the rule that will be applied, the
// second spares a new setting the wait for a restart.
func (o *Ops) AllowedNetworks(ctx context.Context) ([]netip.Prefix, error) {
	kv, err := o.js.KeyValue(ctx, streams.AppsBucket)
	if err != nil {
		return nil, err
	}
	bucket, err := kv.Status(ctx)
	if err != nil {
		return nil, err
	}
	var networks []netip.Prefix
	for text := range strings.SplitSeq(bucket.Metadata()[streams.AllowedNetworksKey], ",") {
		if text == "" {
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("metadata %s of bucket %s: %w", streams.AllowedNetworksKey, streams.AppsBucket, err)
		}
		networks = append(networks, network)
	}
	return append(networks, o.cfg.AllowedNetworks...), nil
}

// Applied is what became of one manifest.
type Applied struct {
	AppID string `json:"appId"`
	// Secret is there once: when it was made.
	Secret string `json:"secret,omitempty"`
	// Created says that the app is new.
	Created  bool   `json:"created"`
	Revision uint64 `json:"revision"`
}

// Apply stores a manifest. An app that has no secret gets the given one, or
// one that is made for it when none is given. With ifRevision it does so only
// if the stored manifest has that revision, 0 meaning that there is none, and
// returns manifest.ErrConflict otherwise.
//
// The secret is stored before the manifest: a pipeline that takes the app up
// must find what to sign with.
func (o *Ops) Apply(ctx context.Context, by Actor, m manifest.Manifest, given secrets.Secret, ifRevision *uint64) (Applied, error) {
	store, err := o.Manifests(ctx)
	if err != nil {
		return Applied{}, err
	}
	before, revision, err := store.Get(ctx, m.AppID)
	known := err == nil || unreadable(err)
	if !known && !errors.Is(err, manifest.ErrNotFound) {
		return Applied{}, err
	}
	if ifRevision != nil && *ifRevision != revision {
		return Applied{}, fmt.Errorf("app %s: %w; read it again, and apply your change to that", m.AppID, manifest.ErrConflict)
	}
	result := Applied{AppID: m.AppID}
	put := func() error {
		if result.Secret, err = o.giveSecret(ctx, m.AppID, given, known); err != nil {
			return err
		}
		killpoint.Here(killpoint.SecretStored)
		if result.Revision, result.Created, err = store.Put(ctx, m, ifRevision); err != nil {
			result = Applied{}
		}
		killpoint.Here(killpoint.ManifestStored)
		return err
	}
	entry := streams.AuditEntry{What: streams.AuditAppApplied, App: m.AppID, After: document(withoutHeaderValues(m))}
	if known && err == nil {
		entry.Before = document(withoutHeaderValues(before))
	}
	if given.IsZero() && known && bytes.Equal(document(before), document(m)) {
		// Nothing changes, unless its secret has been lost.
		result.Revision = revision
		result.Secret, err = o.giveSecret(ctx, m.AppID, given, known)
		return result, err
	}
	err = o.Change(ctx, by, entry, put)
	return result, err
}

// giveSecret sets the given secret, or makes one for an app that has none. It
// returns the one that it made.
func (o *Ops) giveSecret(ctx context.Context, app string, given secrets.Secret, known bool) (string, error) {
	sealed, err := o.secrets(ctx)
	if err != nil {
		return "", err
	}
	if !given.IsZero() {
		return "", sealed.Set(ctx, app, given)
	}
	made := secrets.Generate()
	err = sealed.Create(ctx, app, made)
	switch {
	case err == nil:
		return made.Reveal(), nil
	case !errors.Is(err, secrets.ErrExists):
		return "", err
	case known:
		return "", nil
	}
	// A secret without an app is left over from an apply that was cut short,
	// and nobody has seen it; or another apply is just at it, and somebody
	// will. Rotating is right for both.
	if err := sealed.Rotate(ctx, app, made, secrets.Grace); err != nil {
		return "", err
	}
	return made.Reveal(), nil
}

// withoutHeaderValues returns the manifest for the record: headers are not for
// secrets, and hold some all the same.
func withoutHeaderValues(m manifest.Manifest) manifest.Manifest {
	m.Webhooks = maps.Clone(m.Webhooks)
	for capability, w := range m.Webhooks {
		if len(w.Headers) == 0 {
			continue
		}
		w.Headers = maps.Clone(w.Headers)
		for name := range w.Headers {
			w.Headers[name] = "[redacted]"
		}
		m.Webhooks[capability] = w
	}
	return m
}

// CheckRemovable returns manifest.ErrNotFound unless there is something of the
// app to remove: its manifest, or secrets left over from a removal that was
// cut short.
func (o *Ops) CheckRemovable(ctx context.Context, app string) error {
	_, _, err := o.Manifest(ctx, app)
	if err == nil || unreadable(err) {
		return nil
	}
	if !errors.Is(err, manifest.ErrNotFound) {
		return err
	}
	sealed, sealedErr := o.secrets(ctx)
	if sealedErr != nil {
		return sealedErr
	}
	leftover, hasErr := sealed.Has(ctx, app)
	if hasErr != nil {
		return hasErr
	}
	if leftover {
		return nil
	}
	return err
}

// Remove removes an app: its manifest first, so that nothing is sent any more
// by the time when it can't be signed, then its secrets and its gates. What is
// left over from a removal that was cut short is removed by the next. With
// ifRevision it does so only if the manifest has that revision, and returns
// manifest.ErrConflict otherwise.
func (o *Ops) Remove(ctx context.Context, by Actor, app string, ifRevision *uint64) error {
	if err := o.CheckRemovable(ctx, app); err != nil {
		return err
	}
	store, err := o.Manifests(ctx)
	if err != nil {
		return err
	}
	entry := streams.AuditEntry{What: streams.AuditAppRemoved, App: app}
	before, revision, err := store.Get(ctx, app)
	switch {
	case ifRevision != nil && (err == nil || errors.Is(err, manifest.ErrNotFound)) && *ifRevision != revision:
		return fmt.Errorf("app %s: %w", app, manifest.ErrConflict)
	case err == nil:
		entry.Before = document(withoutHeaderValues(before))
	case !errors.Is(err, manifest.ErrNotFound) && !unreadable(err):
		return err
	}
	return o.Change(ctx, by, entry, func() error { return o.remove(ctx, store, app, ifRevision) })
}

func (o *Ops) remove(ctx context.Context, store *manifest.Store, app string, ifRevision *uint64) error {
	remove := func() error { return store.Delete(ctx, app) }
	if ifRevision != nil {
		remove = func() error { return store.DeleteRevision(ctx, app, *ifRevision) }
	}
	if err := remove(); err != nil && !errors.Is(err, manifest.ErrNotFound) {
		return err
	}
	sealed, err := o.secrets(ctx)
	if err == nil {
		err = sealed.Delete(ctx, app)
	}
	if err != nil && !errors.Is(err, secrets.ErrNone) {
		return fmt.Errorf("the app is removed, but not its secrets; run it again: %w", err)
	}
	if err := o.clearGates(ctx, app); err != nil {
		return fmt.Errorf("the app is removed, but not its breakers; run it again: %w", err)
	}
	return nil
}

// clearGates removes what is recorded about an app's endpoints.
func (o *Ops) clearGates(ctx context.Context, app string) error {
	gates, err := o.gates(ctx)
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

// Rotated is the outcome of RotateSecret.
type Rotated struct {
	AppID string `json:"appId"`
	// Secret is the new one. Empty when it was given.
	Secret string `json:"secret,omitempty"`
	// OldUntil is when the secrets that were active before stop being so.
	OldUntil time.Time `json:"oldUntil"`
}

// RotateSecret gives an app a new secret: the given one, or one that it makes
// and returns. The old ones stay active for the grace; 0 ends them at once.
func (o *Ops) RotateSecret(ctx context.Context, by Actor, app string, given secrets.Secret, grace time.Duration) (Rotated, error) {
	if _, _, err := o.Manifest(ctx, app); err != nil {
		return Rotated{}, err
	}
	sealed, err := o.secrets(ctx)
	if err != nil {
		return Rotated{}, err
	}
	result := Rotated{AppID: app, OldUntil: time.Now().Add(grace).UTC().Round(time.Second)}
	next := given
	if next.IsZero() {
		next = secrets.Generate()
		result.Secret = next.Reveal()
	}
	entry := streams.AuditEntry{What: streams.AuditSecretRotated, App: app, After: document(map[string]any{"oldUntil": result.OldUntil})}
	if err := o.Change(ctx, by, entry, func() error { return sealed.Rotate(ctx, app, next, grace) }); err != nil {
		return Rotated{}, err
	}
	return result, nil
}
