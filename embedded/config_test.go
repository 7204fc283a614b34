package embedded

import (
	"strings"
	"testing"
	"time"
)

func TestSettingsThatCantBeRight(t *testing.T) {
	tests := []struct {
		why  string
		cfg  Config
		want []string // what the error has to say
	}{
		{"every interface, no token", Config{Addr: "0.0.0.0:4222"}, []string{envAddr, envToken, "127.0.0.1:4222"}},
		{"every interface, as an empty host", Config{Addr: ":4222"}, []string{envAddr, envToken}},
		{"every interface, IPv6", Config{Addr: "[::]:4222"}, []string{envToken}},
		{"a public address, no token", Config{Addr: "203.0.113.7:4222"}, []string{envToken}},
		{"no port", Config{Addr: "127.0.0.1"}, []string{envAddr, "host:port", AddrOff}},
		{"a word for a port", Config{Addr: "127.0.0.1:nats"}, []string{envAddr, "nats", "65535"}},
		{"a port out of range", Config{Addr: "127.0.0.1:65536"}, []string{envAddr, "65536"}},
		{"a negative port, which nats-server takes for any", Config{Addr: "127.0.0.1:-1"}, []string{envAddr, "-1"}},
		{"a host with too long a label for any resolver to ask about", Config{Addr: strings.Repeat("x", 64) + ":4222"}, []string{envAddr, "xxx"}},
		{"sync: a word", Config{Addr: AddrOff, Sync: "sometimes"}, []string{envSync, "sometimes", SyncAlways, "1s"}},
		{"sync: a number without a unit", Config{Addr: AddrOff, Sync: "5"}, []string{envSync}},
		{"sync: negative", Config{Addr: AddrOff, Sync: "-1s"}, []string{envSync}},
		{"sync: zero, which nats-server takes for two minutes", Config{Addr: AddrOff, Sync: "0s"}, []string{envSync}},
		{"sync: so short that it would spin", Config{Addr: AddrOff, Sync: "1us"}, []string{envSync, "10ms"}},
		{"a negative limit", Config{Addr: AddrOff, StoreMax: -1}, []string{"-1", "80%"}},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			tt.cfg.DataDir = t.TempDir()
			s, err := Start(t.Context(), tt.cfg)
			if err == nil {
				s.Shutdown(t.Context())
				t.Fatal("Start accepted it")
			}
			checkMessage(t, err, tt.want...)
		})
	}
}

func TestSettingsThatAreRight(t *testing.T) {
	type listen struct {
		off  bool
		host string
		port int
	}
	tests := []struct {
		why  string
		cfg  Config
		want listen
	}{
		{"the default is loopback", Config{}, listen{host: "127.0.0.1", port: 4222}},
		{"in-process only", Config{Addr: AddrOff}, listen{off: true}},
		{"IPv6 loopback", Config{Addr: "[::1]:4222"}, listen{host: "::1", port: 4222}},
		{"all of 127/8 is loopback", Config{Addr: "127.8.9.10:1"}, listen{host: "127.8.9.10", port: 1}},
		{"loopback by name", Config{Addr: "localhost:4222"}, listen{host: "localhost", port: 4222}},
		{"any port", Config{Addr: "127.0.0.1:0"}, listen{host: "127.0.0.1", port: -1}},
		{"every interface, with a token", Config{Addr: ":4222", Token: "s3cret"}, listen{host: "0.0.0.0", port: 4222}},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			o, err := tt.cfg.options(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := (listen{o.DontListen, o.Host, o.Port}); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// The server has two ways of taking over the settings of its store, of which
// one ignored some in the past: ask it what it really uses.
func TestSyncReachesTheStore(t *testing.T) {
	tests := []struct {
		sync     string
		always   bool
		interval time.Duration // 0: not looked at
	}{
		{"", true, 0},
		{SyncAlways, true, 0},
		{"1s", false, time.Second},
	}
	for _, tt := range tests {
		t.Run("sync="+tt.sync, func(t *testing.T) {
			s := start(t, Config{Sync: tt.sync})
			got := s.running.Load().JetStreamConfig()
			if got.SyncAlways != tt.always || tt.interval != 0 && got.SyncInterval != tt.interval {
				t.Errorf("always %v, interval %v", got.SyncAlways, got.SyncInterval)
			}
			if got.MaxStore != s.StoreMax() || got.MaxMemory != maxMemory {
				t.Errorf("max store %d, want %d; max memory %d, want %d", got.MaxStore, s.StoreMax(), got.MaxMemory, maxMemory)
			}
		})
	}
}

// checkMessage expects an error of one line that contains every part.
func checkMessage(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}
