package secrets

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// keySize is the bytes of the key file's key: as many as AES-256 and X25519
// have of strength to give.
const keySize = 32

// maxKeyFile is as much of a key file as is read: base64 of the key and room
// for line breaks.
const maxKeyFile = 256

// LoadOrCreateKey returns the key in the file at path, or makes one there:
// the base64 of 32 random bytes, mode 0600, on disk before it returns. Of
// several processes that do this at once all return the same key. The
// directory must exist.
//
// A file that others may read, or that isn't such a key, is an error that says
// what to do; it is never replaced, since the secrets sealed for it would be lost.
func LoadOrCreateKey(path string) (*Key, error) {
	raw, err := loadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(path); err != nil {
			return nil, err
		}
		raw, err = loadKey(path) // ours, or that of a process that was faster
	}
	if err != nil {
		return nil, err
	}
	return newKey(raw)
}

func loadKey(path string) ([]byte, error) {
	// Without O_NONBLOCK, opening a named pipe waits for somebody to write to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator says where the key file is
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat() // of what was opened, and through a link
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		return nil, fmt.Errorf("key file %s is a directory: set BACKSTOP_SECRETS_KEY_FILE to a file", path)
	case !mode.IsRegular():
		return nil, fmt.Errorf("key file %s is not a regular file: set BACKSTOP_SECRETS_KEY_FILE to one", path)
	case mode.Perm()&0o077 != 0:
		return nil, fmt.Errorf("key file %s can be read or changed by others (mode %04o): run chmod 600 %s; if they may have read it, rotate every app's secret", path, mode.Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(raw) != keySize || len(text) > maxKeyFile {
		return nil, fmt.Errorf("key file %s does not hold the base64 of %d bytes: restore it from a backup or another replica; "+
			"or, if no app's secret must survive, remove it and the bucket's public key (nats kv del secrets %s), start again, and rotate every app's secret",
			path, keySize, PublicKeyName)
	}
	return raw, nil
}

// createKey makes the key file unless there is one. The key is written to a
// file of its own first and linked to its name last, whole and on disk: a link
// never replaces a file, so that the first of several processes wins.
func createKey(path string) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("make key file %s: %w (the directory must exist and be writable)", path, err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) //nolint:gosec // a name that CreateTemp made
	}()
	raw := make([]byte, keySize)
	rand.Read(raw) // never fails
	if _, err := f.WriteString(base64.StdEncoding.EncodeToString(raw) + "\n"); err != nil {
		return fmt.Errorf("make key file %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("make key file %s: %w", path, err)
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make key file %s: %w; if the file system has no hard links, make it by hand: "+
			"(umask 077; head -c %d /dev/urandom | base64 > %s)", path, err, keySize, path)
	}
	// The winner may not have come this far, so the loser does it as well.
	return syncDir(dir)
}

// syncDir puts a directory's entries on disk.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator says where the key file is
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
