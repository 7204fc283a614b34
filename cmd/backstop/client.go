package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// connectTimeout is how long a client waits for each server to take its
// connection. Somebody sits in front of it.
const connectTimeout = 2 * time.Second

// requestTimeout bounds a request to JetStream; it outlasts the election of a
// new leader (4 to 8 s).
const requestTimeout = 10 * time.Second

// client is a connection to the NATS that a pipeline runs on.
type client struct {
	cfg Config
	nc  *nats.Conn
	js  jetstream.JetStream
	ops *ops.Ops
}

// withClient connects, runs do, and disconnects. What a pipeline makes when it
// starts is waited for.
func (a *app) withClient(cmd *cobra.Command, do func(ctx context.Context, c *client) error) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	// What is not permitted is told here alone; to the request it looks like a
	// server that doesn't answer. Hence at once, and again in explain.
	c.nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		a.warnf("NATS: %s", strings.TrimPrefix(err.Error(), "nats: "))
	})
	c.js = &startingJetStream{JetStream: c.js, deadline: time.Now().Add(startTimeout), waiting: func() {
		a.notef("Waiting for `backstop serve` to make its streams and buckets.")
	}}
	c.ops = ops.New(ops.Config{JetStream: c.js, AllowedNetworks: cfg.AllowedNetworks, Warn: func(text string) { a.warnf("%s", text) }})
	return c.explain(do(cmd.Context(), c))
}

func connect(cfg Config) (*client, error) {
	options, err := connectOptions(cfg)
	if err != nil {
		return nil, err
	}
	options = append(options, tlsOptions(cfg)...)
	servers := cfg.clientURL()
	nc, err := nats.Connect(servers, append(options, nats.Timeout(connectTimeout))...)
	if err != nil {
		return nil, connectError(servers, err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &client{cfg: cfg, nc: nc, js: js}, nil
}

// connectOptions returns who we are to NATS: name and login. The token of
// the embedded server serves where no other login is set, so that an operator
// beside `serve` needs no second setting.
func connectOptions(cfg Config) ([]nats.Option, error) {
	options := []nats.Option{nats.Name("backstop " + cfg.ReplicaName)}
	for _, setting := range []struct{ name, file, holds string }{
		{"NATS_CREDS", cfg.NATSCreds, "-----BEGIN NATS USER JWT-----"},
		{"NATS_CA", cfg.NATSCA, "-----BEGIN CERTIFICATE-----"},
		{"NATS_CERT", cfg.NATSCert, "-----BEGIN CERTIFICATE-----"},
		{"NATS_KEY", cfg.NATSKey, "PRIVATE KEY-----"},
		{"BACKSTOP_NATS_CERT", cfg.EmbeddedCert, "-----BEGIN CERTIFICATE-----"},
	} {
		if err := holds(setting.file, setting.holds); err != nil {
			return nil, settingError(setting.name, setting.file, err)
		}
	}
	switch {
	case cfg.NATSCreds != "":
		options = append(options, nats.UserCredentials(cfg.NATSCreds))
	case cfg.NATSUser != "":
		options = append(options, nats.UserInfo(cfg.NATSUser, cfg.NATSPassword))
	case cfg.NATSToken != "":
		options = append(options, nats.Token(cfg.NATSToken))
	case cfg.EmbeddedToken != "":
		options = append(options, nats.Token(cfg.EmbeddedToken))
	}
	if cfg.NATSInboxPrefix != "" {
		options = append(options, nats.CustomInboxPrefix(cfg.NATSInboxPrefix))
	}
	return options, nil
}

// tlsOptions returns whose certificates are trusted, and our own. They are for
// connections over the network alone: each makes nats.go insist on TLS. Beside
// `serve` with an embedded server, that server's own certificate is trusted
// where no CA is set.
func tlsOptions(cfg Config) []nats.Option {
	var options []nats.Option
	switch {
	case cfg.NATSCA != "":
		options = append(options, nats.RootCAs(cfg.NATSCA))
	case cfg.NATSURL == "" && cfg.EmbeddedCert != "":
		options = append(options, nats.RootCAs(cfg.EmbeddedCert))
	}
	if cfg.NATSCert != "" {
		options = append(options, nats.ClientCert(cfg.NATSCert, cfg.NATSKey))
	}
	return options
}

// holds returns why a file that a setting names can't be what it should be: a
// line of it says what. nats.go would find out when it connects, and serve then
// waits for NATS. No file is no error.
func holds(file, line string) error {
	if file == "" {
		return nil
	}
	data, err := os.ReadFile(file) //nolint:gosec // the operator's own setting
	if err != nil {
		return fmt.Errorf("can't read the file: %w", err)
	}
	if !bytes.Contains(data, []byte(line)) {
		return fmt.Errorf("has no line %q", line)
	}
	return nil
}

// clientURL returns where a client looks for NATS: NATS_URL, or else where
// `serve` with the same settings has its embedded server listen.
func (c *Config) clientURL() string {
	if c.NATSURL != "" {
		return c.NATSURL
	}
	scheme := "nats://"
	if c.EmbeddedCert != "" {
		scheme = "tls://"
	}
	host, port, err := net.SplitHostPort(string(c.EmbeddedAddr))
	if err != nil || port == "0" { // off, or any free port: the default is the best guess
		return scheme + string(defaultConfig().EmbeddedAddr)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + net.JoinHostPort(host, port)
}

// redact hides what is secret in the addresses of NATS.
func redact(servers string) string {
	all := strings.Split(servers, ",")
	for i, server := range all {
		server = strings.TrimSpace(server)
		u, err := url.Parse(server)
		switch {
		case err == nil && u.User != nil:
			server = u.Scheme + "://" + u.Host
		case strings.Contains(server, "@"): // user:password@host without a scheme
			server = server[strings.LastIndex(server, "@")+1:]
		}
		all[i] = server
	}
	return strings.Join(all, ",")
}

func connectError(servers string, err error) error {
	where := redact(servers)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		return hint(fmt.Errorf("NATS at %s refused the login: %w", where, err),
			"set NATS_CREDS, NATS_USER and NATS_PASSWORD, or NATS_TOKEN (BACKSTOP_NATS_TOKEN for the embedded server)")
	case strings.Contains(err.Error(), "tls: "): // one text for our own verdict and the server's, which share no type
		return hint(fmt.Errorf("no TLS with NATS at %s: %w", where, err),
			"set NATS_CA to the CA of its certificate, and NATS_CERT and NATS_KEY if it asks for yours")
	case errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrTimeout), isNetwork(err):
		return hint(fmt.Errorf("can't reach NATS at %s: %w", where, err),
			"is `backstop serve` running? Set NATS_URL if NATS is elsewhere")
	default:
		return fmt.Errorf("connect to NATS at %s: %w", where, err)
	}
}

func isNetwork(err error) bool {
	var network net.Error
	return errors.As(err, &network)
}

// explain says what an error of JetStream means to somebody who runs a command.
func (c *client) explain(err error) error {
	where := c.nc.ConnectedUrlRedacted()
	if where == "" {
		where = redact(c.cfg.clientURL())
	}
	switch {
	case err == nil, errors.Is(err, streams.ErrNoStream):
		return err
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, nats.ErrNoResponders): // nobody listens to JetStream's own subjects
		return hint(fmt.Errorf("NATS at %s has no JetStream for this login: %w", where, err),
			"start nats-server with -js, or set NATS_URL to the NATS that `backstop serve` runs on")
	case errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		return hint(fmt.Errorf("NATS at %s has no streams and buckets of Backstop: %w", where, err),
			"start `backstop serve` on it, which makes them, or set NATS_URL to the NATS that it runs on")
	case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout):
		return err
	case errors.Is(c.nc.LastError(), nats.ErrPermissionViolation):
		return hint(fmt.Errorf("NATS at %s doesn't permit this login what the command needs: %w", where, c.nc.LastError()),
			"log in with the permissions of an operator, as in docs/operations.md")
	default:
		return hint(fmt.Errorf("JetStream at %s doesn't answer: %w", where, err),
			"the same again; if it stays so, look at the server's log and disk")
	}
}
