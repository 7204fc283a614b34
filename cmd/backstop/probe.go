package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// newProbeCommand is for images without a shell, whose only program this is.
func newProbeCommand(a *app) *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Ask the pipeline on this machine whether it is healthy, for a container's health check",
		Long: `Asks the pipeline that runs with the same settings on this machine, over HTTP at
BACKSTOP_HTTP_ADDR, whether it is healthy; the exit code is 0 if so. Unhealthy means
that a restart may help; with --ready also one that doesn't consume events (yet).`,
		Example: `  backstop probe
  backstop probe --ready`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			return probe(cmd.Context(), cfg.localHTTP()+path)
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "ask whether it consumes events")
	return cmd
}

// localHTTP is where a process on this machine reaches the pipeline's HTTP side.
func (c *Config) localHTTP() string {
	scheme := "http://"
	if c.HTTPCert != "" {
		scheme = "https://"
	}
	host, port, err := net.SplitHostPort(string(c.HTTPAddr))
	if err != nil {
		return scheme + string(c.HTTPAddr) // which fails, and says why
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + net.JoinHostPort(host, port)
}

// probeTimeout is less than what the health check of the image waits.
const probeTimeout = 4 * time.Second

// probe returns nil if the answer is 200.
func probe(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		Proxy: nil, DisableKeepAlives: true,
		// The certificate is for the name that others use. Nothing is sent that
		// anybody might not read, and who could answer in its place is on this machine.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return hint(fmt.Errorf("the pipeline doesn't answer: %w", err), "backstop serve, or the BACKSTOP_HTTP_ADDR that it runs with")
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // the status alone says enough
		return fmt.Errorf("%s: %s %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
