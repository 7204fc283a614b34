package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"

	"backstop/streams/manifest"
)

// Config is every setting, as read from the environment. The contract's
// section 11 lists them; `backstop help settings` prints this struct. A
// setting that is set to nothing has its default, as if it were not set.
type Config struct {
	// TimeoutDefault is how long one attempt may take where neither a manifest
	// nor Timeouts says it. Zero means not set: what the catalogue has.
	TimeoutDefault milliseconds `envconfig:"WEBHOOK_TIMEOUT_DEFAULT" desc:"how long one attempt may take (ms); empty: by capability, 10000 for calls of no catalogue"`
	// Timeouts holds WEBHOOK_TIMEOUT_<CAPABILITY>, by what follows the second
	// underscore: "QUIZ_ANSWER".
	Timeouts map[string]time.Duration `ignored:"true"`

	RetryMaxAttempts  count        `envconfig:"WEBHOOK_RETRY_MAX_ATTEMPTS" desc:"most attempts for one event"`
	RetryInitialDelay milliseconds `envconfig:"WEBHOOK_RETRY_INITIAL_DELAY" desc:"wait before the second attempt (ms)"`
	RetryMaxDelay     milliseconds `envconfig:"WEBHOOK_RETRY_MAX_DELAY" desc:"longest wait between attempts (ms)"`

	BreakerFailureThreshold count        `envconfig:"CIRCUIT_BREAKER_FAILURE_THRESHOLD" desc:"failures in a row that open a circuit"`
	BreakerRecoveryTimeout  milliseconds `envconfig:"CIRCUIT_BREAKER_RECOVERY_TIMEOUT" desc:"how long a circuit stays open before a probe (ms)"`
	BreakerSuccessThreshold count        `envconfig:"CIRCUIT_BREAKER_SUCCESS_THRESHOLD" desc:"successful probes in a row that close it"`

	HealthInterval milliseconds `envconfig:"APP_HEALTH_CHECK_INTERVAL" desc:"time between two health checks of an app (ms)"`

	NATSURL      string `envconfig:"NATS_URL" desc:"an external NATS; empty starts the embedded one, and is where clients look for it"`
	NATSCreds    string `envconfig:"NATS_CREDS" desc:"credentials file for NATS"`
	NATSUser     string `envconfig:"NATS_USER" desc:"user for NATS"`
	NATSPassword string `envconfig:"NATS_PASSWORD" desc:"password for NATS"`
	NATSToken    string `envconfig:"NATS_TOKEN" desc:"token for NATS"`
	NATSCA       string `envconfig:"NATS_CA" desc:"file with the CA certificates that NATS's certificate is checked against"`
	NATSCert     string `envconfig:"NATS_CERT" desc:"file with the client's TLS certificate for NATS"`
	NATSKey      string `envconfig:"NATS_KEY" desc:"file with its private key"`

	// NATSInboxPrefix keeps what is answered to this login from the others'.
	NATSInboxPrefix string `envconfig:"NATS_INBOX_PREFIX" desc:"subjects where answers of NATS arrive; empty: _INBOX"`

	// DataDir holds the embedded store and the key that seals secrets.
	DataDir string `envconfig:"BACKSTOP_DATA_DIR" desc:"directory of the embedded store"`
	// EmbeddedAddr is where the embedded server listens: host:port or "off".
	EmbeddedAddr natsAddr `envconfig:"BACKSTOP_NATS_ADDR" desc:"where the embedded server listens; off for this process alone"`
	// EmbeddedToken is what clients of the embedded server must present.
	EmbeddedToken string `envconfig:"BACKSTOP_NATS_TOKEN" desc:"token of the embedded server; required to listen beyond loopback"`
	EmbeddedCert  string `envconfig:"BACKSTOP_NATS_CERT" desc:"file with the embedded server's TLS certificate; empty: no TLS"`
	EmbeddedKey   string `envconfig:"BACKSTOP_NATS_KEY" desc:"file with its private key"`
	// Sync is "always" or a duration such as "1s".
	Sync syncMode `envconfig:"BACKSTOP_SYNC" desc:"when the embedded store reaches the disk: always, or an interval such as 1s"`
	// StoreMax is the most bytes that the embedded store may take; 0 derives
	// it from the disk.
	StoreMax byteSize `envconfig:"BACKSTOP_STORE_MAX" desc:"most that the embedded store may take, such as 10GiB; empty: by the disk"`
	// AcceptLoss names a damage to the store that serve goes on with; see embedded.Config.
	AcceptLoss string `envconfig:"BACKSTOP_ACCEPT_LOSS" desc:"name of a damage to the embedded store, as serve has given it, to go on without what can't be read"`
	// Replicas is how many servers hold each stream and bucket.
	Replicas count `envconfig:"BACKSTOP_REPLICAS" desc:"replicas of every stream and bucket; 3 on a cluster"`
	// ReplicaName tells this process from others in leases and logs.
	ReplicaName string `envconfig:"BACKSTOP_REPLICA_NAME" desc:"this process among others; empty: host and process id"`

	// HTTPAddr is where the dashboard, the API, callbacks and metrics are served.
	HTTPAddr   httpAddr `envconfig:"BACKSTOP_HTTP_ADDR" desc:"dashboard, API, callbacks, /metrics, /healthz, /readyz"`
	AdminToken string   `envconfig:"BACKSTOP_ADMIN_TOKEN" desc:"bearer token of the API; required to listen beyond loopback"`
	HTTPCert   string   `envconfig:"BACKSTOP_HTTP_CERT" desc:"file with the TLS certificate of HTTP; empty: no TLS"`
	HTTPKey    string   `envconfig:"BACKSTOP_HTTP_KEY" desc:"file with its private key"`
	// TokensFile holds the hashes of further tokens; see readTokens.
	TokensFile string `envconfig:"BACKSTOP_TOKENS_FILE" desc:"file with further tokens of the API, a line of name, role and hash each (backstop token)"`
	// HTTPHosts are names by which browsers reach the HTTP address, beside
	// that of PublicURL.
	HTTPHosts hostNames `envconfig:"BACKSTOP_HTTP_HOSTS" desc:"further names by which browsers reach it, separated by commas"`
	// PublicURL is the base of callback URLs. Empty: see PublicBase.
	PublicURL baseURL `envconfig:"BACKSTOP_PUBLIC_URL" desc:"base of callback URLs; empty: from the HTTP address"`

	// AllowedNetworks are what webhooks may reach beside the public internet.
	AllowedNetworks networks `envconfig:"BACKSTOP_ALLOWED_NETWORKS" desc:"CIDRs that webhooks may reach beside the public internet, separated by commas"`
	// SecretsKeyFile holds the key that encrypts app secrets at rest.
	SecretsKeyFile string `envconfig:"BACKSTOP_SECRETS_KEY_FILE" desc:"key that encrypts app secrets; empty: secrets.key in the data directory"`

	// MetricsEndpoints is how many endpoints have series of their own in /metrics.
	MetricsEndpoints seriesLimit `envconfig:"BACKSTOP_METRICS_ENDPOINTS" desc:"endpoints that have series of their own in /metrics; the others share theirs"`

	LogLevel  logLevel  `envconfig:"BACKSTOP_LOG_LEVEL" desc:"debug, info, warn or error"`
	LogFormat logFormat `envconfig:"BACKSTOP_LOG_FORMAT" desc:"text, or json for machines"`

	// withoutAttempts keeps no delivery log. No setting: bench measures by it
	// what the log costs.
	withoutAttempts bool
}

// defaultConfig returns the settings of an empty environment, but for those
// that depend on others; see derive.
func defaultConfig() Config {
	return Config{
		RetryMaxAttempts:        3,
		RetryInitialDelay:       milliseconds(time.Second),
		RetryMaxDelay:           milliseconds(30 * time.Second),
		BreakerFailureThreshold: 5,
		BreakerRecoveryTimeout:  milliseconds(time.Minute),
		BreakerSuccessThreshold: 3,
		HealthInterval:          milliseconds(5 * time.Minute),
		DataDir:                 "./backstop-data",
		EmbeddedAddr:            "127.0.0.1:4222",
		Sync:                    "always",
		Replicas:                1,
		HTTPAddr:                "127.0.0.1:8080",
		MetricsEndpoints:        1000,
		LogLevel:                logLevel(slog.LevelInfo),
		LogFormat:               "text",
	}
}

// LoadConfig reads the settings from the process's environment, which is the
// only one that envconfig knows. The error names the setting, its value and
// what would be right. The warnings are about variables that look like
// settings and are none.
func LoadConfig() (cfg Config, warnings []string, err error) {
	cfg = defaultConfig()
	if err := envconfig.Process("", &cfg); err != nil {
		if parse, ok := errors.AsType[*envconfig.ParseError](err); ok {
			return Config{}, nil, settingError(parse.KeyName, parse.Value, parse.Err)
		}
		return Config{}, nil, err
	}
	environ := os.Environ()
	if cfg.Timeouts, err = capabilityTimeouts(environ); err != nil {
		return Config{}, nil, err
	}
	if err := cfg.derive(); err != nil {
		return Config{}, nil, err
	}
	return cfg, unknownSettings(environ), cfg.validate()
}

// config reads the settings for a command, and tells its warnings.
func (a *app) config() (Config, error) {
	cfg, warnings, err := LoadConfig()
	for _, w := range warnings {
		a.warnf("%s", w)
	}
	if err != nil {
		return Config{}, hint(err, "backstop help settings")
	}
	return cfg, nil
}

// serveConfig reads the settings for a command that runs the pipeline: those
// of config, and what only somebody who listens or stores can get wrong.
func (a *app) serveConfig() (Config, error) {
	cfg, err := a.config()
	if err != nil {
		return Config{}, err
	}
	err = cfg.checkExposure()
	if err == nil {
		err = cfg.checkEmbedded()
	}
	if err != nil {
		return Config{}, hint(err, "backstop help settings")
	}
	return cfg, nil
}

func settingError(name, value string, err error) error {
	return fmt.Errorf("%s=%q: %w", name, value, err)
}

// timeoutPrefix starts the names of the capabilities' timeouts; what follows
// it is open, as capabilities are.
const timeoutPrefix = "WEBHOOK_TIMEOUT_"

func capabilityTimeouts(environ []string) (map[string]time.Duration, error) {
	timeouts := make(map[string]time.Duration)
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		capability, ok := strings.CutPrefix(name, timeoutPrefix)
		if !ok || capability == "DEFAULT" || value == "" {
			continue
		}
		var timeout milliseconds
		err := timeout.Decode(value)
		if err == nil && timeout > maxWait {
			err = errTooLong
		}
		if err != nil {
			return nil, settingError(name, value, err)
		}
		timeouts[capability] = time.Duration(timeout)
	}
	return timeouts, nil
}

// derive fills in what depends on other settings or on the machine.
func (c *Config) derive() error {
	if c.DataDir == "" {
		c.DataDir = defaultConfig().DataDir
	}
	if c.SecretsKeyFile == "" {
		c.SecretsKeyFile = filepath.Join(c.DataDir, "secrets.key")
	}
	if c.ReplicaName == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("BACKSTOP_REPLICA_NAME is not set, and the host has no name: %w", err)
		}
		c.ReplicaName = host + "-" + strconv.Itoa(os.Getpid())
	}
	return nil
}

// Bounds that differ from setting to setting. They are those of a manifest:
// what an app may not ask for, a slip of the operator shouldn't get.
const (
	maxRetryAttempts = 20
	maxWait          = milliseconds(time.Hour)
	maxReplicas      = 5 // JetStream's own
)

// minStore has room for what the fixed streams reserve at least (112 MiB) and a
// few capabilities.
const minStore = byteSize(128 << 20)

var errTooLong = fmt.Errorf("want at most %s, which is an hour", maxWait)

// validate checks what the type of a setting leaves open, and how settings go
// together.
func (c *Config) validate() error {
	for _, setting := range []struct {
		name string
		wait milliseconds
	}{
		{"WEBHOOK_TIMEOUT_DEFAULT", c.TimeoutDefault},
		{"WEBHOOK_RETRY_INITIAL_DELAY", c.RetryInitialDelay},
		{"WEBHOOK_RETRY_MAX_DELAY", c.RetryMaxDelay},
		{"CIRCUIT_BREAKER_RECOVERY_TIMEOUT", c.BreakerRecoveryTimeout},
	} {
		if setting.wait > maxWait {
			return settingError(setting.name, setting.wait.String(), errTooLong)
		}
	}
	switch {
	case c.RetryMaxAttempts > maxRetryAttempts:
		return settingError("WEBHOOK_RETRY_MAX_ATTEMPTS", c.RetryMaxAttempts.String(), fmt.Errorf("want at most %d", maxRetryAttempts))
	case c.RetryMaxDelay < c.RetryInitialDelay:
		return settingError("WEBHOOK_RETRY_MAX_DELAY", c.RetryMaxDelay.String(),
			fmt.Errorf("must be at least WEBHOOK_RETRY_INITIAL_DELAY, which is %s", c.RetryInitialDelay))
	case c.Replicas > maxReplicas:
		return settingError("BACKSTOP_REPLICAS", c.Replicas.String(),
			fmt.Errorf("JetStream keeps at most %d replicas; use 1, or 3 on a cluster", maxReplicas))
	case c.NATSPassword != "" && c.NATSUser == "":
		return errors.New("NATS_PASSWORD is set without NATS_USER: set both, or neither")
	}
	if err := c.checkKeyPairs(); err != nil {
		return err
	}
	return checkServers(c.NATSURL)
}

// checkKeyPairs finds a certificate without its key, and a key alone.
func (c *Config) checkKeyPairs() error {
	for _, pair := range []struct{ name, cert, key string }{
		{"NATS", c.NATSCert, c.NATSKey},
		{"BACKSTOP_NATS", c.EmbeddedCert, c.EmbeddedKey},
		{"BACKSTOP_HTTP", c.HTTPCert, c.HTTPKey},
	} {
		switch {
		case pair.cert != "" && pair.key == "":
			return settingError(pair.name+"_CERT", pair.cert, fmt.Errorf("needs %s_KEY, the file with the certificate's private key", pair.name))
		case pair.key != "" && pair.cert == "":
			return settingError(pair.name+"_KEY", pair.key, fmt.Errorf("needs %s_CERT, the file with the key's certificate", pair.name))
		}
	}
	return nil
}

// checkEmbedded checks the settings of the embedded server, which only whoever
// starts it has to get right.
func (c *Config) checkEmbedded() error {
	switch {
	case c.NATSURL != "":
	case c.Replicas > 1:
		return settingError("BACKSTOP_REPLICAS", c.Replicas.String(), errors.New("the embedded server is one server: set NATS_URL to a cluster, or use 1"))
	case c.StoreMax != 0 && c.StoreMax < minStore:
		return settingError("BACKSTOP_STORE_MAX", c.StoreMax.String(), fmt.Errorf("the streams need at least %s", minStore))
	}
	return nil
}

// manifestDefaults returns what holds where a manifest doesn't say.
func (c *Config) manifestDefaults() manifest.Defaults {
	return manifest.Defaults{
		Timeouts: c.Timeouts,
		Timeout:  time.Duration(c.TimeoutDefault),
		Retry: manifest.RetryPolicy{
			MaxAttempts:  int(c.RetryMaxAttempts),
			InitialDelay: time.Duration(c.RetryInitialDelay),
			MaxDelay:     time.Duration(c.RetryMaxDelay),
		},
		Breaker: manifest.BreakerPolicy{
			FailureThreshold: int(c.BreakerFailureThreshold),
			RecoveryTimeout:  time.Duration(c.BreakerRecoveryTimeout),
			SuccessThreshold: int(c.BreakerSuccessThreshold),
		},
	}
}
