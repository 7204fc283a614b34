package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a certificate that we serve under, in two files. It is read
// again when they change, so that one that was renewed needs no restart.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	version [2]fileVersion // what current was read from
	looked  time.Time
}

// fileVersion tells one content of a file from the next.
type fileVersion struct {
	at   time.Time
	size int64
}

// lookEvery is how often the files are looked at, at most: a stranger who
// connects over and over makes no work of it.
const lookEvery = time.Second

// serverTLS returns the TLS settings of a listener under the certificate in the
// files, nil when none is set. The error names the setting. Files that can't be
// used later leave the certificate as it was, and a warning.
func serverTLS(setting, certFile, keyFile string, log *slog.Logger) (*tls.Config, error) {
	if certFile == "" {
		return nil, nil
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log, looked: time.Now()}
	if err := c.load(); err != nil {
		return nil, settingError(setting, certFile, err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(), nil }}, nil
}

func (c *certificate) get() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) >= lookEvery {
		c.looked = now
		if err := c.load(); err != nil {
			c.log.Warn("a renewed certificate can't be used; the earlier one is served on", "file", c.certFile, "error", err)
		}
	}
	return c.current
}

// load reads the files if they have changed.
func (c *certificate) load() error {
	var now [2]fileVersion
	for i, file := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		now[i] = fileVersion{info.ModTime(), info.Size()}
	}
	if now == c.version {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("not a certificate with its key: %w", err)
	}
	c.current, c.version = &pair, now
	return nil
}
