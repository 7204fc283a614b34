package main

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"backstop/streams/manifest"
)

// cleanEnvironment takes away every setting that the machine of a developer
// may have, and puts it back when the test ends.
func cleanEnvironment(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		for _, prefix := range []string{"NATS_", "BACKSTOP_", "WEBHOOK_", "CIRCUIT_", "APP_"} {
			if strings.HasPrefix(name, prefix) {
				t.Setenv(name, "")
				if err := os.Unsetenv(name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func TestLoadConfigDefaults(t *testing.T) {
	for _, test := range []struct {
		name string
		set  bool // to nothing
		why  string
	}{
		{"unset", false, "an empty environment has the contract's defaults"},
		{"empty", true, "a compose file sets what it doesn't know to nothing, which must not differ"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cleanEnvironment(t)
			if test.set {
				for _, s := range settings() {
					t.Setenv(s.name, "")
				}
				t.Setenv("WEBHOOK_TIMEOUT_QUIZ_ANSWER", "")
			}
			cfg, warnings, err := LoadConfig()
			if err != nil || len(warnings) != 0 {
				t.Fatalf("%s: error %v, warnings %q", test.why, err, warnings)
			}
			if !strings.HasSuffix(cfg.ReplicaName, "-"+itoa(os.Getpid())) {
				t.Errorf("ReplicaName = %q, want host and process id", cfg.ReplicaName)
			}
			cfg.ReplicaName = ""
			want := Config{
				Timeouts:                map[string]time.Duration{},
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
				SecretsKeyFile:          "backstop-data/secrets.key",
				MetricsEndpoints:        1000,
				LogLevel:                logLevel(slog.LevelInfo),
				LogFormat:               "text",
			}
			if !reflect.DeepEqual(cfg, want) {
				t.Errorf("%s:\n got %+v\nwant %+v", test.why, cfg, want)
			}
		})
	}
}

func itoa(n int) string { return count(n).String() }

func TestLoadConfigReads(t *testing.T) {
	tests := []struct {
		name, value string
		field       func(Config) any
		want        any
		why         string
	}{
		{"WEBHOOK_TIMEOUT_DEFAULT", "2500", func(c Config) any { return time.Duration(c.TimeoutDefault) }, 2500 * time.Millisecond, "times are milliseconds"},
		{"WEBHOOK_TIMEOUT_QUIZ_ANSWER", "1500", func(c Config) any { return c.Timeouts["QUIZ_ANSWER"] }, 1500 * time.Millisecond, "of a built-in capability"},
		{"WEBHOOK_TIMEOUT_MY_OWN_9", "1", func(c Config) any { return c.Timeouts["MY_OWN_9"] }, time.Millisecond, "of any other"},
		{"WEBHOOK_TIMEOUT_DEFAULT", "2500", func(c Config) any { return len(c.Timeouts) }, 0, "DEFAULT is no capability"},
		{"WEBHOOK_RETRY_MAX_ATTEMPTS", "20", func(c Config) any { return int(c.RetryMaxAttempts) }, 20, "as many as a manifest may"},
		{"CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "3600000", func(c Config) any { return time.Duration(c.BreakerRecoveryTimeout) }, time.Hour, "the longest"},
		{"APP_HEALTH_CHECK_INTERVAL", "86400000", func(c Config) any { return time.Duration(c.HealthInterval) }, 24 * time.Hour, "once a day is fine"},
		{"BACKSTOP_DATA_DIR", "/srv/b", func(c Config) any { return c.SecretsKeyFile }, "/srv/b/secrets.key", "the key is in the data directory"},
		{"BACKSTOP_SECRETS_KEY_FILE", "/etc/k", func(c Config) any { return c.SecretsKeyFile }, "/etc/k", "unless it is set"},
		{"BACKSTOP_SYNC", "250ms", func(c Config) any { return string(c.Sync) }, "250ms", "an interval"},
		{"BACKSTOP_NATS_ADDR", "off", func(c Config) any { return c.EmbeddedAddr }, natsAddrOff, "in-process only"},
		{"BACKSTOP_NATS_ADDR", "[::1]:0", func(c Config) any { return string(c.EmbeddedAddr) }, "[::1]:0", "any free port"},
		{"BACKSTOP_STORE_MAX", "10GiB", func(c Config) any { return int64(c.StoreMax) }, int64(10 << 30), "binary unit"},
		{"BACKSTOP_STORE_MAX", "1.5GB", func(c Config) any { return int64(c.StoreMax) }, int64(1.5e9), "decimal unit"},
		{"BACKSTOP_STORE_MAX", "4096", func(c Config) any { return int64(c.StoreMax) }, int64(4096), "plain bytes"},
		{"BACKSTOP_REPLICAS", "3", func(c Config) any { return int(c.Replicas) }, 3, "a cluster"},
		{"BACKSTOP_REPLICA_NAME", "blue", func(c Config) any { return c.ReplicaName }, "blue", "named by the operator"},
		{"BACKSTOP_PUBLIC_URL", "https://hooks.example.com/b/", func(c Config) any { return string(c.PublicURL) }, "https://hooks.example.com/b", "without the slash"},
		{"BACKSTOP_ALLOWED_NETWORKS", "127.0.0.0/8, ::1/128", func(c Config) any { return c.AllowedNetworks.String() }, "127.0.0.0/8,::1/128", "spaces are no mistake"},
		{"BACKSTOP_LOG_LEVEL", "DEBUG", func(c Config) any { return slog.Level(c.LogLevel) }, slog.LevelDebug, "as slog writes it"},
		{"BACKSTOP_LOG_FORMAT", "json", func(c Config) any { return string(c.LogFormat) }, "json", ""},
		{"NATS_URL", "nats://a:4222,tls://b:4222", func(c Config) any { return c.clientURL() }, "nats://a:4222,tls://b:4222", "a cluster"},
		{"NATS_URL", "nats://[::1]:4222", func(c Config) any { return c.clientURL() }, "nats://[::1]:4222", "IPv6"},
		{"BACKSTOP_NATS_ADDR", "0.0.0.0:5222", func(c Config) any { return c.clientURL() }, "nats://127.0.0.1:5222", "clients follow the embedded server"},
		{"BACKSTOP_NATS_ADDR", "off", func(c Config) any { return c.clientURL() }, "nats://127.0.0.1:4222", "which isn't there, so the default"},
	}
	for _, test := range tests {
		t.Run(test.name+"="+test.value, func(t *testing.T) {
			cleanEnvironment(t)
			t.Setenv(test.name, test.value)
			cfg, _, err := LoadConfig()
			if err != nil {
				t.Fatal(err)
			}
			if got := test.field(cfg); !reflect.DeepEqual(got, test.want) {
				t.Errorf("%s: got %v, want %v", test.why, got, test.want)
			}
		})
	}
}

func TestLoadConfigRefuses(t *testing.T) {
	tests := []struct {
		env  string // what is set, separated by spaces
		want string // part of the error beside the name of the first setting
		why  string
	}{
		{"WEBHOOK_TIMEOUT_DEFAULT=soon", `="soon": want a time in whole milliseconds`, "a word for a number"},
		{"WEBHOOK_TIMEOUT_DEFAULT=-1", "from 1 to", "a negative time"},
		{"WEBHOOK_TIMEOUT_DEFAULT=2s", "such as 2000", "a unit where milliseconds are meant"},
		{"WEBHOOK_TIMEOUT_DEFAULT=3600001", "an hour", "beyond any manifest"},
		{"WEBHOOK_TIMEOUT_QUIZ_ANSWER=fast", `="fast": want a time`, "any capability's timeout is checked"},
		{"WEBHOOK_TIMEOUT_QUIZ_ANSWER=0", "from 1", "no time at all"},
		{"WEBHOOK_TIMEOUT_QUIZ_ANSWER=7200000", "an hour", "too long"},
		{"WEBHOOK_RETRY_MAX_ATTEMPTS=0", "from 1", "an event is tried once at least"},
		{"WEBHOOK_RETRY_MAX_ATTEMPTS=21", "at most 20", "more than a manifest may ask for"},
		{"WEBHOOK_RETRY_INITIAL_DELAY=1.5", "whole milliseconds", "a fraction"},
		{"WEBHOOK_RETRY_MAX_DELAY=500", "at least WEBHOOK_RETRY_INITIAL_DELAY, which is 1000", "below the first delay"},
		{"WEBHOOK_RETRY_MAX_DELAY=99999999999999999999", "whole milliseconds", "beyond 64 bits"},
		{"CIRCUIT_BREAKER_FAILURE_THRESHOLD=0", "from 1", "a breaker that is always open"},
		{"CIRCUIT_BREAKER_FAILURE_THRESHOLD=five", "whole number", "a word"},
		{"CIRCUIT_BREAKER_SUCCESS_THRESHOLD=-3", "from 1", "negative"},
		{"CIRCUIT_BREAKER_RECOVERY_TIMEOUT=3600001", "an hour", "for ever, nearly"},
		{"APP_HEALTH_CHECK_INTERVAL=86400001", "from 1 to 86400000", "less than once a day"},
		{"BACKSTOP_SYNC=sometimes", `="sometimes": want always, or an interval`, "unknown sync"},
		{"BACKSTOP_SYNC=1ms", "at least 10ms", "what the embedded server refuses"},
		{"BACKSTOP_SYNC=0", "want always", "never"},
		{"BACKSTOP_NATS_ADDR=4222", "want host:port", "a port alone"},
		{"BACKSTOP_NATS_ADDR=localhost:nats", "host:port", "a service's name"},
		{"BACKSTOP_HTTP_ADDR=127.0.0.1:99999", "from 0 to 65535", "no such port"},
		{"BACKSTOP_HTTP_ADDR=off", "host:port", "only the embedded server can be off"},
		{"BACKSTOP_STORE_MAX=plenty", "such as 10GiB", "a word"},
		{"BACKSTOP_STORE_MAX=10Gb", "such as 10GiB", "bits?"},
		{"BACKSTOP_STORE_MAX=-1GiB", "such as 10GiB", "negative"},
		{"BACKSTOP_STORE_MAX=0", "such as 10GiB", "no room at all"},
		{"BACKSTOP_STORE_MAX=NaN", "such as 10GiB", "a float that is no number"},
		{"BACKSTOP_STORE_MAX=9000000TiB", "such as 10GiB", "beyond 64 bits"},
		{"BACKSTOP_REPLICAS=6", "at most 5", "JetStream's limit"},
		{"BACKSTOP_REPLICAS=two", "whole number", "a word"},
		{"BACKSTOP_PUBLIC_URL=hooks.example.com", "http or https URL", "no scheme"},
		{"BACKSTOP_PUBLIC_URL=https://u:p@example.com", "without credentials", "credentials would be sent to apps"},
		{"BACKSTOP_ALLOWED_NETWORKS=127.0.0.1", `"127.0.0.1" is not a network`, "an address"},
		{"BACKSTOP_ALLOWED_NETWORKS=10.0.0.0/8,10.1.2.3/16", "want 10.1.0.0/16", "bits behind the mask are a slip"},
		{"BACKSTOP_ALLOWED_NETWORKS=10.0.0.0/33", "is not a network", "bad CIDR"},
		{"BACKSTOP_METRICS_ENDPOINTS=-1", "from 0 to 100000", "negative"},
		{"BACKSTOP_METRICS_ENDPOINTS=all", "whole number", "a word"},
		{"BACKSTOP_LOG_LEVEL=loud", "want debug, info, warn or error", "bad log level"},
		{"BACKSTOP_LOG_FORMAT=xml", "want text or json", "bad format"},
		{"NATS_CERT=/c.pem", "needs NATS_KEY", "half a pair"},
		{"NATS_KEY=/k.pem", "needs NATS_CERT", "the other half"},
		{"NATS_PASSWORD=geheim", "without NATS_USER", "whose?"},
		{"NATS_URL=http://nats:4222", `scheme "http"`, "not NATS"},
		{"NATS_URL=nats://", "not an address", "no host"},
		{"NATS_URL=:::", "not an address", "colons alone"},
		{"NATS_URL=nats://::1:4222", "not an address", "IPv6 without its brackets"},
		{"NATS_URL=nats://127.0.0.1:99999", "not an address", "no port"},
		{"NATS_URL=nats://127.0.0.1:0", "not an address", "no port either"},
	}
	for _, test := range tests {
		t.Run(test.env, func(t *testing.T) {
			cleanEnvironment(t)
			name, value, _ := strings.Cut(test.env, "=")
			t.Setenv(name, value)
			_, _, err := LoadConfig()
			if err == nil {
				t.Fatalf("%s: accepted", test.why)
			}
			text := err.Error()
			if !strings.HasPrefix(text, name) || !strings.Contains(text, test.want) || strings.Contains(text, "\n") {
				t.Errorf("%s: error %q, want one line with %s and %q", test.why, text, name, test.want)
			}
			if strings.Contains(text, "geheim") {
				t.Errorf("the error shows a password: %s", text)
			}
		})
	}
}

func TestExposure(t *testing.T) {
	tests := []struct {
		env, want, why string
	}{
		{"", "", "the defaults are on loopback"},
		{"BACKSTOP_HTTP_ADDR=0.0.0.0:8080", "set BACKSTOP_ADMIN_TOKEN", "everybody could discard dead letters"},
		{"BACKSTOP_HTTP_ADDR=:8080", "set BACKSTOP_ADMIN_TOKEN", "no host is every interface"},
		{"BACKSTOP_HTTP_ADDR=backstop.example.com:8080", "set BACKSTOP_ADMIN_TOKEN", "a name may be anything"},
		{"BACKSTOP_HTTP_ADDR=:8080 BACKSTOP_ADMIN_TOKEN=x", "", "with a token it may"},
		{"BACKSTOP_HTTP_ADDR=localhost:8080", "", "loopback by name"},
		{"BACKSTOP_HTTP_ADDR=[::1]:8080", "", "loopback in IPv6"},
		{"BACKSTOP_HTTP_ADDR=[::ffff:127.0.0.1]:8080", "", "loopback in disguise"},
		{"BACKSTOP_NATS_ADDR=10.0.0.1:4222", "set BACKSTOP_NATS_TOKEN", "everybody could publish"},
		{"BACKSTOP_NATS_ADDR=10.0.0.1:4222 BACKSTOP_NATS_TOKEN=x", "", "with a token they can't"},
		{"BACKSTOP_NATS_ADDR=10.0.0.1:4222 NATS_URL=nats://n", "", "the embedded server isn't started"},
		{"BACKSTOP_NATS_ADDR=off", "", "nobody can reach it"},
	}
	for _, test := range tests {
		t.Run(test.env, func(t *testing.T) {
			cleanEnvironment(t)
			for entry := range strings.FieldsSeq(test.env) {
				name, value, _ := strings.Cut(entry, "=")
				t.Setenv(name, value)
			}
			var said bytes.Buffer
			a := &app{out: &said, err: &said}
			_, err := a.serveConfig()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%s: got %v, want %q", test.why, err, test.want)
			}
			if _, err := a.config(); err != nil {
				t.Errorf("a client must not be stopped by where serve listens: %v", err)
			}
		})
	}
}

func TestEmbeddedSettings(t *testing.T) {
	tests := []struct{ env, want, why string }{
		{"BACKSTOP_REPLICAS=3", `BACKSTOP_REPLICAS="3": the embedded server is one server`, "one server can't keep three replicas"},
		{"BACKSTOP_REPLICAS=3 NATS_URL=nats://n1,nats://n2", "", "a cluster can"},
		{"BACKSTOP_STORE_MAX=100MiB", `BACKSTOP_STORE_MAX="100MiB": the streams need at least 128MiB`, "the fixed streams don't fit"},
		{"BACKSTOP_STORE_MAX=128MiB", "", "they just do"},
		{"BACKSTOP_STORE_MAX=1MiB NATS_URL=nats://n", "", "no store of ours"},
	}
	for _, test := range tests {
		t.Run(test.env, func(t *testing.T) {
			cleanEnvironment(t)
			for entry := range strings.FieldsSeq(test.env) {
				name, value, _ := strings.Cut(entry, "=")
				t.Setenv(name, value)
			}
			var said bytes.Buffer
			a := &app{out: &said, err: &said}
			_, err := a.serveConfig()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)) {
				t.Errorf("%s: got %v, want %q", test.why, err, test.want)
			}
			if _, err := a.config(); err != nil {
				t.Errorf("a client must not be stopped by what only serve stores: %v", err)
			}
		})
	}
}

func TestUnknownSettings(t *testing.T) {
	tests := []struct{ env, want, why string }{
		{"BACKSTOP_REPLICA=3", "BACKSTOP_REPLICA is not a setting; did you mean BACKSTOP_REPLICAS?", "a letter is missing"},
		{"BACKSTOP_ADMIN_TOKNE=x", "BACKSTOP_ADMIN_TOKNE is not a setting; did you mean BACKSTOP_ADMIN_TOKEN?", "two are swapped"},
		{"BACKSTOP_SOMETHING_ELSE=1", "BACKSTOP_SOMETHING_ELSE is not a setting", "nothing is near"},
		{"BACKSTOP_SYNC=always", "", "a setting"},
		{"WEBHOOK_SECRET=x", "", "somebody else's"},
		{"WEBHOOK_RETRY_MAX_ATTEMPT=5", "WEBHOOK_RETRY_MAX_ATTEMPT is not a setting; did you mean WEBHOOK_RETRY_MAX_ATTEMPTS?", "one of ours, mistyped"},
		{"WEBHOOK_TIMOUT_DEFAULT=5", "WEBHOOK_TIMOUT_DEFAULT is not a setting; did you mean WEBHOOK_TIMEOUT_DEFAULT?", "a timeout, mistyped before the open part"},
		{"CIRCUIT_BREAKER_COLOUR=red", "", "somebody else's"},
		{"WEBHOOK_TIMEOUT_QUIZ_ANSWER=5", "", "the timeout of a capability"},
		{"WEBHOOK_TIMEOUT_QUIZ2A=5", "", "that of quiz2a"},
		{"WEBHOOK_TIMEOUT_quizAnswer=5", "WEBHOOK_TIMEOUT_quizAnswer is not a setting; did you mean WEBHOOK_TIMEOUT_QUIZ_ANSWER?", "the capability as it is written in a manifest"},
	}
	for _, test := range tests {
		got := strings.Join(unknownSettings([]string{test.env}), "|")
		if got != test.want {
			t.Errorf("%s (%s): got %q, want %q", test.env, test.why, got, test.want)
		}
	}
}

func TestManifestDefaults(t *testing.T) {
	cleanEnvironment(t)
	for name, value := range map[string]string{
		"WEBHOOK_TIMEOUT_QUIZ_ANSWER": "1500", "WEBHOOK_TIMEOUT_DEFAULT": "4000", "WEBHOOK_RETRY_MAX_ATTEMPTS": "7",
		"WEBHOOK_RETRY_INITIAL_DELAY": "11", "WEBHOOK_RETRY_MAX_DELAY": "12", "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "8",
		"CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "13", "CIRCUIT_BREAKER_SUCCESS_THRESHOLD": "9",
	} {
		t.Setenv(name, value)
	}
	cfg, _, err := LoadConfig()
	if err != nil {
		t.Fatal(err)
	}
	ms := time.Millisecond
	want := manifest.Defaults{
		Timeouts: map[string]time.Duration{"QUIZ_ANSWER": 1500 * ms},
		Timeout:  4000 * ms,
		Retry:    manifest.RetryPolicy{MaxAttempts: 7, InitialDelay: 11 * ms, MaxDelay: 12 * ms},
		Breaker:  manifest.BreakerPolicy{FailureThreshold: 8, RecoveryTimeout: 13 * ms, SuccessThreshold: 9},
	}
	if got := cfg.manifestDefaults(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPublicBase(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ set, served, want, why string }{
		{"https://hooks.example.com", "127.0.0.1:8080", "https://hooks.example.com", "what is set wins"},
		{"", "127.0.0.1:49152", "http://127.0.0.1:49152", "the port that was free"},
		{"", "[::]:8080", "http://" + host + ":8080", "no app can call every interface"},
	}
	for _, test := range tests {
		addr, err := net.ResolveTCPAddr("tcp", test.served)
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{PublicURL: baseURL(test.set)}
		if got := cfg.PublicBase(addr); got != test.want {
			t.Errorf("%s: got %s, want %s", test.why, got, test.want)
		}
	}
}

// Every setting of the contract is in the help, with the contract's default.
func TestSettingsHelp(t *testing.T) {
	help := settingsHelp()
	for name, value := range map[string]string{
		"WEBHOOK_RETRY_MAX_ATTEMPTS": "3", "WEBHOOK_RETRY_INITIAL_DELAY": "1000", "WEBHOOK_RETRY_MAX_DELAY": "30000",
		"CIRCUIT_BREAKER_FAILURE_THRESHOLD": "5", "CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "60000", "CIRCUIT_BREAKER_SUCCESS_THRESHOLD": "3",
		"APP_HEALTH_CHECK_INTERVAL": "300000", "NATS_URL": "-", "NATS_CREDS": "-", "NATS_USER": "-", "NATS_PASSWORD": "-",
		"NATS_TOKEN": "-", "NATS_CA": "-", "NATS_CERT": "-", "NATS_KEY": "-", "BACKSTOP_DATA_DIR": "./backstop-data",
		"BACKSTOP_NATS_ADDR": "127.0.0.1:4222", "BACKSTOP_NATS_TOKEN": "-", "BACKSTOP_SYNC": "always", "BACKSTOP_REPLICAS": "1",
		"BACKSTOP_HTTP_ADDR": "127.0.0.1:8080", "BACKSTOP_ADMIN_TOKEN": "-", "BACKSTOP_PUBLIC_URL": "-",
		"BACKSTOP_ALLOWED_NETWORKS": "-", "BACKSTOP_SECRETS_KEY_FILE": "-", "BACKSTOP_LOG_LEVEL": "info", "BACKSTOP_LOG_FORMAT": "text",
		"WEBHOOK_TIMEOUT_DEFAULT": "-", "WEBHOOK_TIMEOUT_<CAPABILITY>": "-", "BACKSTOP_STORE_MAX": "-", "BACKSTOP_REPLICA_NAME": "-",
	} {
		found := false
		for line := range strings.SplitSeq(help, "\n") {
			if f := strings.Fields(line); len(f) > 2 && f[0] == name && f[1] == value {
				found = true
			}
		}
		if !found {
			t.Errorf("the help has no line for %s with default %s:\n%s", name, value, help)
		}
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(Config{LogFormat: "json", LogLevel: logLevel(slog.LevelWarn)}, &out)
	log.Info("quiet")
	log.Warn("loud")
	if got := out.String(); strings.Contains(got, "quiet") || !strings.HasPrefix(got, `{"time":`) || !strings.Contains(got, `"msg":"loud"`) {
		t.Errorf("log: %s", got)
	}
}
