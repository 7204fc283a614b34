package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The types of settings. Each decodes its text with an error that says what
// would be right, and leaves the default alone when the text is empty.

// milliseconds is a time that is given as a whole number of milliseconds.
type milliseconds time.Duration

// maxMilliseconds bounds every time that is set: a day is beyond any sensible
// one, and what is longer is a mistake of units.
const maxMilliseconds = 24 * 60 * 60 * 1000

// Decode implements envconfig.Decoder.
func (m *milliseconds) Decode(s string) error {
	if s == "" {
		return nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > maxMilliseconds {
		return fmt.Errorf("want a time in whole milliseconds from 1 to %d, such as 2000", maxMilliseconds)
	}
	*m = milliseconds(time.Duration(n) * time.Millisecond)
	return nil
}

// String returns the milliseconds as they would be set; none when not set.
func (m milliseconds) String() string {
	if m == 0 {
		return ""
	}
	return strconv.FormatInt(time.Duration(m).Milliseconds(), 10)
}

// count is a number of things of which there must be one at least.
type count int

// maxCount bounds every count: a threshold or a number of attempts beyond it
// is a slip of the finger.
const maxCount = 1000

// Decode implements envconfig.Decoder.
func (c *count) Decode(s string) error {
	if s == "" {
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxCount {
		return fmt.Errorf("want a whole number from 1 to %d, such as 3", maxCount)
	}
	*c = count(n)
	return nil
}

// String returns the number as it would be set.
func (c count) String() string { return strconv.Itoa(int(c)) }

// seriesLimit is a number of things that have series of their own; 0 is none.
type seriesLimit int

// maxSeriesLimit is beyond what a Prometheus takes from one process gladly:
// each of them has some ten series.
const maxSeriesLimit = 100_000

// Decode implements envconfig.Decoder.
func (l *seriesLimit) Decode(s string) error {
	if s == "" {
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > maxSeriesLimit {
		return fmt.Errorf("want a whole number from 0 to %d, such as 1000", maxSeriesLimit)
	}
	*l = seriesLimit(n)
	return nil
}

// String returns the number as it would be set.
func (l seriesLimit) String() string { return strconv.Itoa(int(l)) }

// byteSize is a number of bytes, with a unit such as "10GiB". Zero means that
// it is not set.
type byteSize int64

// Decode implements envconfig.Decoder.
func (b *byteSize) Decode(s string) error {
	if s == "" {
		return nil
	}
	digits := strings.TrimRight(s, "KMGTiB ")
	unit, known := map[string]float64{
		"": 1, "B": 1,
		"K": 1 << 10, "KiB": 1 << 10, "KB": 1e3,
		"M": 1 << 20, "MiB": 1 << 20, "MB": 1e6,
		"G": 1 << 30, "GiB": 1 << 30, "GB": 1e9,
		"T": 1 << 40, "TiB": 1 << 40, "TB": 1e12,
	}[strings.TrimSpace(s[len(digits):])]
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !known || !(n*unit >= 1 && n*unit < math.MaxInt64) {
		return errors.New("want a size with its unit, such as 10GiB or 500MiB")
	}
	*b = byteSize(n * unit)
	return nil
}

// String returns the size in the largest unit that divides it.
func (b byteSize) String() string {
	if b == 0 {
		return ""
	}
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	n, i := int64(b), 0
	for n%1024 == 0 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return strconv.FormatInt(n, 10) + units[i]
}

// httpAddr is where an HTTP server listens, host:port.
type httpAddr string

// Decode implements envconfig.Decoder.
func (h *httpAddr) Decode(s string) error {
	if s == "" {
		return nil
	}
	if err := checkAddr(s); err != nil {
		return fmt.Errorf("%w, such as 127.0.0.1:8080", err)
	}
	*h = httpAddr(s)
	return nil
}

// natsAddr is where the embedded NATS server listens, host:port, or natsAddrOff.
type natsAddr string

// natsAddrOff keeps the embedded server within the process.
const natsAddrOff natsAddr = "off"

// Decode implements envconfig.Decoder.
func (n *natsAddr) Decode(s string) error {
	if s == "" {
		return nil
	}
	if s != string(natsAddrOff) {
		if err := checkAddr(s); err != nil {
			return fmt.Errorf("%w, such as 127.0.0.1:4222, or %s", err, natsAddrOff)
		}
	}
	*n = natsAddr(s)
	return nil
}

func checkAddr(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return errors.New("want host:port with a port from 0 to 65535")
	}
	return nil
}

// syncMode is "always" or how often the store is synced, such as "1s".
type syncMode string

// minSync is the shortest interval that the embedded server takes.
const minSync = 10 * time.Millisecond

// Decode implements envconfig.Decoder.
func (m *syncMode) Decode(s string) error {
	if s == "" {
		return nil
	}
	if d, err := time.ParseDuration(s); s != "always" && (err != nil || d < minSync) {
		return fmt.Errorf("want always, or an interval of at least %v such as 1s", minSync)
	}
	*m = syncMode(s)
	return nil
}

// hostNames is a list of names of hosts.
type hostNames []string

// Decode implements envconfig.Decoder.
func (h *hostNames) Decode(s string) error {
	var names []string
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		if strings.ContainsAny(part, "/:*@ ") {
			return fmt.Errorf("%q is not a host's name: want names without scheme and port, such as backstop.example.com,backstop-1", part)
		}
		names = append(names, part)
	}
	*h = names
	return nil
}

// String returns the list as it would be set.
func (h hostNames) String() string { return strings.Join(h, ",") }

// baseURL is where others reach this process over HTTP, without a slash at its end.
type baseURL string

// Decode implements envconfig.Decoder.
func (b *baseURL) Decode(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want an http or https URL without credentials, query or fragment, such as https://backstop.example.com")
	}
	*b = baseURL(strings.TrimRight(s, "/"))
	return nil
}

// networks is a list of CIDRs.
type networks []netip.Prefix

// Decode implements envconfig.Decoder.
func (n *networks) Decode(s string) error {
	prefixes, err := parseNetworks(s)
	if err != nil {
		return err
	}
	*n = prefixes
	return nil
}

// String returns the list as it would be set.
func (n networks) String() string {
	texts := make([]string, len(n))
	for i, prefix := range n {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}

// parseNetworks reads CIDRs separated by commas. None is no error.
func parseNetworks(s string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("%q is not a network: want CIDRs separated by commas, such as 127.0.0.0/8,10.1.0.0/16", part)
		}
		if prefix != prefix.Masked() {
			return nil, fmt.Errorf("%q has bits set behind its mask: want %s, or a longer mask", part, prefix.Masked())
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

// logLevel is how much is logged.
type logLevel slog.Level

// Decode implements envconfig.Decoder.
func (l *logLevel) Decode(s string) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[strings.ToLower(s)]
	switch {
	case s == "":
	case !ok:
		return errors.New("want debug, info, warn or error")
	default:
		*l = logLevel(level)
	}
	return nil
}

// String returns the level as it would be set.
func (l logLevel) String() string { return strings.ToLower(slog.Level(l).String()) }

// logFormat is how a log line is written.
type logFormat string

// Decode implements envconfig.Decoder.
func (f *logFormat) Decode(s string) error {
	switch s {
	case "":
	case "text", "json":
		*f = logFormat(s)
	default:
		return errors.New("want text or json")
	}
	return nil
}
