// Package ops is what operators do to a running Backstop, whichever way they
// ask for it: the commands and the HTTP API are two faces of it. It works over
// NATS alone, as any client does, and puts every change on record before it
// makes it.
package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
	"backstop/streams/manifest"
	"backstop/streams/secrets"
)

// Config says what the operations work on. JetStream is required.
type Config struct {
	JetStream jetstream.JetStream
	// AllowedNetworks are what this process allows webhooks to reach, beside
	// what the running pipeline has noted.
	AllowedNetworks []netip.Prefix
	// Warn is told, in one sentence, that something is done but not all is as
	// it should be. Nil discards it.
	Warn func(string)
	// Log gets what can't be read in a bucket. Nil discards it.
	Log *slog.Logger
}

// Ops carries out operations. Make one with New.
type Ops struct {
	js      jetstream.JetStream
	cfg     Config
	audit   *streams.Audit
	reasons reasonCounts
}

// New returns the operations on cfg.JetStream.
func New(cfg Config) *Ops {
	if cfg.Warn == nil {
		cfg.Warn = func(string) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Ops{js: cfg.JetStream, cfg: cfg, audit: streams.NewAudit(cfg.JetStream)}
}

// Actor is who does something, for the record.
type Actor struct {
	// Name is a person (user@host) or the name of a token.
	Name string
	// Via is how: ViaAPI or ViaCommand.
	Via string
}

// The ways in.
const (
	ViaAPI     = "api"
	ViaCommand = "command"
)

// recordTimeout bounds the record of a failure, which is written although the
// operation's own context may be over.
const recordTimeout = 5 * time.Second

// Change puts entry on record as the actor's, and then does what it says. When
// it can't be put on record it isn't done. When do fails, that is put on record
// as well, as far as possible.
func (o *Ops) Change(ctx context.Context, by Actor, entry streams.AuditEntry, do func() error) error {
	entry.Time, entry.By, entry.Via = time.Now().UTC(), by.Name, by.Via
	if err := o.audit.Record(ctx, entry); err != nil {
		return fmt.Errorf("nothing was done: %w", err)
	}
	err := do()
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	entry.Time, entry.Failed = time.Now().UTC(), err.Error()
	if recordErr := o.audit.Record(ctx, entry); recordErr != nil {
		o.cfg.Warn("the audit says that it was done, which it was not: " + recordErr.Error())
	}
	return err
}

// Audit reads what was put on record.
func (o *Ops) Audit() *streams.Audit { return o.audit }

// Notices reads the notices.
func (o *Ops) Notices() *streams.NoticeLog { return streams.NewNoticeLog(o.js) }

// Attempts reads the delivery log.
func (o *Ops) Attempts() *streams.AttemptLog { return streams.NewAttemptLog(o.js) }

// Alerts returns the alerts that are raised, the longest first, never nil.
func (o *Ops) Alerts(ctx context.Context) ([]streams.Alert, error) {
	kv, err := o.js.KeyValue(ctx, streams.AlertsBucket)
	if err != nil {
		return nil, err
	}
	alerts, err := streams.NewAlerts(kv).List(ctx)
	if err != nil {
		return nil, err
	}
	return append([]streams.Alert{}, alerts...), nil
}

// DeadLetters reads the dead letters.
func (o *Ops) DeadLetters() *streams.DeadLetters { return streams.NewDeadLetters(o.js) }

// Manifests opens the bucket of manifests.
func (o *Ops) Manifests(ctx context.Context) (*manifest.Store, error) {
	kv, err := o.js.KeyValue(ctx, streams.AppsBucket)
	if err != nil {
		return nil, err
	}
	return manifest.NewStore(kv, o.cfg.Log), nil
}

// secrets opens the bucket of sealed secrets.
func (o *Ops) secrets(ctx context.Context) (*secrets.Store, error) {
	kv, err := o.js.KeyValue(ctx, streams.SecretsBucket)
	if err != nil {
		return nil, err
	}
	return secrets.NewStore(kv), nil
}

// gates opens the bucket in which circuits are open and endpoints disabled.
func (o *Ops) gates(ctx context.Context) (*streams.Gates, error) {
	kv, err := o.js.KeyValue(ctx, streams.BreakersBucket)
	if err != nil {
		return nil, err
	}
	return streams.NewGates(kv), nil
}

// document returns v as JSON for the record.
func document(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		return nil // of our own types none can fail
	}
	return data
}

// unreadable tells whether a manifest is there that can't be read.
func unreadable(err error) bool { return errors.As(err, new(manifest.Problems)) }
