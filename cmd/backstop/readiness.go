package main

import (
	"errors"
	"sync/atomic"

	"backstop/cmd/backstop/admin"
	"backstop/embedded"
)

// readiness answers /healthz and /readyz.
type readiness struct {
	broker  atomic.Pointer[broker]
	started atomic.Bool
}

// healthy tells whether a restart would help: the embedded server can't take
// writes, and doesn't mend itself. A lost external NATS is no reason to restart.
func (r *readiness) healthy() error {
	err := r.storeHealth()
	if errors.Is(err, embedded.ErrMendsItself) {
		return admin.MendingError{Err: err}
	}
	return err
}

func (r *readiness) storeHealth() error {
	if b := r.broker.Load(); b != nil && b.embedded != nil {
		return b.embedded.Health()
	}
	return nil
}

// ready tells whether events are being consumed, and taken.
func (r *readiness) ready() error {
	b := r.broker.Load()
	if b == nil || !r.started.Load() {
		return errors.New("starting: manifests and streams are being loaded")
	}
	if err := r.storeHealth(); err != nil {
		return err
	}
	if !b.nc.IsConnected() || b.calls.IsClosed() {
		return errors.New("NATS is not connected")
	}
	return nil
}
