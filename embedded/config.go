package embedded

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// The environment variables that set the fields of Config in the command.
// Errors name them, since they are what a person can change.
const (
	envDataDir = "BACKSTOP_DATA_DIR"
	envAddr    = "BACKSTOP_NATS_ADDR"
	envToken   = "BACKSTOP_NATS_TOKEN" //nolint:gosec // the name of a setting, not a token
	envSync    = "BACKSTOP_SYNC"
)

const (
	// DefaultAddr is where the server listens when Config.Addr is empty:
	// NATS's own port, on loopback, so that the nats CLI finds it unasked.
	DefaultAddr = "127.0.0.1:4222"
	// AddrOff is the Config.Addr of a server that only its own process reaches.
	AddrOff = "off"
	// SyncAlways is the Config.Sync that loses nothing with the power.
	SyncAlways = "always"
)

// MaxPayload is the most bytes that a message may have, headers included.
// It is NATS's usual 1 MiB and 64 KiB more: a dead letter is the event with
// headers added, and an event of 1 MiB must still fit. For that to hold, a
// stream that services publish to has to cap its messages at 1 MiB.
const MaxPayload = 1<<20 + 64<<10

// maxMemory caps streams that are kept in memory. Backstop has none; a service
// may. Without a cap nats-server would offer three quarters of the machine.
const maxMemory = 256 << 20

// What a client can take, whoever it is.
const (
	// maxConnections bounds descriptors, and about 40 KB of memory each. Who
	// has not logged in counts as well, until authTimeout.
	maxConnections = 10_000
	// maxSubscriptions of one connection. The pipeline's own has one for each
	// endpoint in trouble, of which there may be 200,000.
	maxSubscriptions = 1 << 18
	// tlsTimeout and authTimeout are what a client has for its handshake and
	// then its login, before it is cut off.
	tlsTimeout  = 3 * time.Second
	authTimeout = 5 * time.Second
)

// minSync is the shortest interval between syncs. A shorter one would keep a
// core busy with timers, and "always" is what it is reaching for.
const minSync = 10 * time.Millisecond

// Lame duck: what clients from outside get between being told that the server
// goes and being cut off. JetStream has stopped by then, so that a long wait
// would only prolong the outage for them; nats-server's own two minutes are
// meant for clusters, where there is somewhere else to go.
const (
	lameDuckDuration = 2 * time.Second
	lameDuckGrace    = 500 * time.Millisecond
)

// Config says how to run the server. Only DataDir has no default.
type Config struct {
	// DataDir is the directory that holds the store. It is made (mode 0700)
	// if it is missing and its parent is there; a missing parent is taken for
	// a typing mistake or a volume that isn't mounted. Required.
	DataDir string

	// Addr is "host:port", where clients outside this process connect, or
	// AddrOff. Port 0 takes any free port; see ClientURL. An empty host is
	// every interface. Defaults to DefaultAddr.
	Addr string

	// Token is what clients have to present. Required to listen anywhere but
	// on loopback. Defaults to none: whoever can connect may publish.
	Token string

	// TLS is what clients outside this process have to speak, if it isn't nil.
	// It needs a certificate. Defaults to none, which is for loopback and
	// networks that nobody listens in on.
	TLS *tls.Config

	// Sync says when messages reach the disk: SyncAlways, before each is
	// acknowledged, or an interval such as "1s" (at least 10ms), which is how
	// much a power failure may take. Defaults to SyncAlways.
	Sync string

	// StoreMax is the most bytes that streams may take in DataDir. It only
	// lowers the cap: the server never takes more than 80% of what its disk
	// has free, counting what the store already holds. Defaults to 0, those 80%.
	StoreMax int64

	// AcceptLoss is the name of a damage to the store, as an error of Start has
	// given it, to go on without what can't be read. Defaults to none: a
	// damaged store isn't started.
	AcceptLoss string

	// Name is the server's name, as in "nats server info". Defaults to "backstop".
	Name string

	// Logger gets the server's log: its notices at debug level, warnings and
	// errors at theirs. Defaults to none.
	Logger *slog.Logger
}

// options turns the settings into nats-server's, or says which one can't be
// right. It touches neither the disk nor a port; ctx bounds the look-up of a
// host's name.
func (c Config) options(ctx context.Context) (*server.Options, error) {
	o := &server.Options{
		ServerName:             c.Name,
		Authorization:          c.Token,
		MaxPayload:             MaxPayload,
		MaxConn:                maxConnections,
		MaxSubs:                maxSubscriptions,
		TLSConfig:              c.TLS,
		TLSTimeout:             tlsTimeout.Seconds(),
		AuthTimeout:            authTimeout.Seconds(),
		JetStream:              true,
		JetStreamMaxMemory:     maxMemory,
		StoreDir:               c.DataDir,
		DisableJetStreamBanner: true,
		// The process belongs to whoever embeds the server. Left to itself it
		// would take SIGINT and SIGTERM and exit.
		NoSigs:              true,
		LameDuckDuration:    lameDuckDuration,
		LameDuckGracePeriod: lameDuckGrace,
	}
	if o.ServerName == "" {
		o.ServerName = "backstop"
	}
	if c.StoreMax < 0 {
		return nil, fmt.Errorf("the store's limit can't be negative (%d): use 0 for 80%% of the disk", c.StoreMax)
	}
	if err := c.setSync(o); err != nil {
		return nil, err
	}
	if err := c.setAddr(ctx, o); err != nil {
		return nil, err
	}
	return o, nil
}

func (c Config) setSync(o *server.Options) error {
	if c.Sync == "" || c.Sync == SyncAlways {
		o.SyncAlways = true
		return nil
	}
	d, err := time.ParseDuration(c.Sync)
	if err != nil || d < minSync {
		return fmt.Errorf("%s: %q is neither %q nor an interval of at least %v: use for example %q",
			envSync, c.Sync, SyncAlways, minSync, "1s")
	}
	o.SyncInterval = d
	return nil
}

func (c Config) setAddr(ctx context.Context, o *server.Options) error {
	addr := c.Addr
	switch addr {
	case AddrOff:
		o.DontListen = true
		return nil
	case "":
		addr = DefaultAddr
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s: %q is not host:port: use for example %s, or %s", envAddr, addr, DefaultAddr, AddrOff)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return fmt.Errorf("%s: %q is not a port: use a number from 0 to 65535", envAddr, portText)
	}
	local, err := isLoopback(ctx, host)
	if err != nil {
		return fmt.Errorf("%s: can't find the address of host %q: %w", envAddr, host, err)
	}
	if !local && c.Token == "" {
		return fmt.Errorf("%s: %s can be reached from other machines, which takes a token: set %s, or listen on 127.0.0.1:%d",
			envAddr, addr, envToken, port)
	}
	o.Host, o.Port = host, int(port)
	if host == "" {
		o.Host = server.DEFAULT_HOST
	}
	if port == 0 {
		// nats-server takes 0 for its default port and -1 for any.
		o.Port = server.RANDOM_PORT
	}
	return nil
}

// isLoopback tells whether every address of host is this machine's own. The
// empty host, which is every interface, isn't.
func isLoopback(ctx context.Context, host string) (bool, error) {
	if host == "" {
		return false, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback(), nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false, err
	}
	for _, ip := range ips {
		if !ip.Unmap().IsLoopback() {
			return false, nil
		}
	}
	return true, nil
}
