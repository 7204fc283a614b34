package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

type listenOptions struct {
	addr       string
	secretFile string
	status     int
	delay      time.Duration
	json       bool
}

func newListenCommand(a *app) *cobra.Command {
	var o listenOptions
	cmd := &cobra.Command{
		Use:   "listen",
		Short: "Receive webhooks on this machine, verify and print them",
		Long: `Receive webhooks on this machine: verify their signatures, print them, and answer
as told. A webhook whose signature is missing or wrong gets 401. The pipeline must be
allowed to reach this machine: BACKSTOP_ALLOWED_NETWORKS=127.0.0.0/8.`,
		Example: `  backstop listen --secret-file quiz.secret
  backstop listen --addr 127.0.0.1:9001 --status 503
  backstop listen --delay 3s --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkAddr(o.addr); err != nil {
				return usageErrorf("--addr %q: %w", o.addr, err)
			}
			if o.status < 200 || o.status > 599 {
				return usageErrorf("--status %d: want an HTTP status from 200 to 599", o.status)
			}
			if o.delay < 0 {
				return usageErrorf("--delay %s: want 0 or more", o.delay)
			}
			return a.listen(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.addr, "addr", "127.0.0.1:9000", "where to listen, host:port")
	flags.StringVar(&o.secretFile, "secret-file", "", "file with the app's secret (- for standard input), or several, one to a line; without it signatures aren't checked")
	flags.IntVar(&o.status, "status", http.StatusOK, "HTTP status to answer")
	flags.DurationVar(&o.delay, "delay", 0, "how long to wait before the answer")
	addJSON(flags, &o.json)
	return cmd
}

// Limits of the receiver: nobody but a pipeline should be talking to it.
const (
	maxWebhookBody    = 1 << 20
	readHeaderTimeout = 10 * time.Second
	closeTimeout      = time.Second
)

// listen serves until ctx ends.
func (a *app) listen(ctx context.Context, o listenOptions) error {
	r := &receiver{app: a, options: o}
	if o.secretFile != "" {
		secrets, err := a.readSecrets(o.secretFile)
		if err != nil {
			return err
		}
		r.secrets = secrets
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", o.addr)
	if err != nil {
		return hint(err, "another address, with --addr")
	}
	server := &http.Server{
		Handler:           r,
		ReadHeaderTimeout: readHeaderTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the delays
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	a.notef("Listening on http://%s; Ctrl-C stops.", listener.Addr())
	if len(r.secrets) == 0 {
		a.notef("Signatures aren't checked; --secret-file checks them.")
	}
	select {
	case err = <-served:
	case <-ctx.Done():
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if server.Shutdown(grace) != nil {
			err = server.Close()
		}
		err = errors.Join(err, <-served)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("listen: %w", err)
}
