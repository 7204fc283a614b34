package main

import (
	"errors"
	"sync/atomic"
)

// readiness answers /healthz and /readyz.
type readiness struct {
	broker  atomic.Pointer[broker]
	started atomic.Bool
}

// healthy tells whether a restart would help: the embedded server can't take
// writes. A lost external NATS is no reason to restart.
func (r *readiness) healthy() error {
	if b := r.broker.Load(); b != nil && b.embedded != nil {
		return b.embedded.Health()
	}
	return nil
}

// ready tells whether events are being consumed.
func (r *readiness) ready() error {
	b := r.broker.Load()
	switch {
	case b == nil || !r.started.Load():
		return errors.New("starting: manifests and streams are being loaded")
	case !b.nc.IsConnected():
		return errors.New("NATS is not connected")
	}
	return r.healthy()
}
