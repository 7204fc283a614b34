package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// storeShare of what the disk could hold goes to streams. The rest is for
	// indexes, for the files that compaction writes beside the old ones, and
	// for the neighbours: a store that fills its disk gets stuck, while one
	// that meets its own cap refuses publishes cleanly and goes on.
	storeShare = 0.8
	// minStore is the least room that is worth starting with. Eight streams of
	// one block (8 MiB) each would not fit into less.
	minStore = 64 << 20
	// probeSize is larger than what any file system keeps inline or has left
	// over in a block, so that writing it needs free space.
	probeSize = 64 << 10
)

// makeDir makes sure that dir is a directory; see Config.DataDir.
func makeDir(dir string) error {
	if dir == "" {
		return fmt.Errorf("%s is empty: name the directory that shall hold the store", envDataDir)
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %s can't be made, as %s does not exist: create that first (or mount it), or choose another directory",
			envDataDir, dir, filepath.Dir(dir))
	}
	if err == nil {
		// So that it is there after a power failure. Best effort: the parent may
		// not be ours to read, and syncing what is in dir does it on most file systems.
		_ = syncDir(filepath.Dir(filepath.Clean(dir)))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: can't make the directory: %w: choose another directory, or let this user (uid %d) make it", envDataDir, err, os.Geteuid())
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", envDataDir, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("%s: %s is not a directory: choose another name", envDataDir, dir)
	}
	return nil
}

// probeWrite writes, syncs and removes a small file in dir: the only way to
// know that a store there can grow. Not in the store's own directory, where
// nats-server takes every entry for an account. One caller at a time.
func probeWrite(dir string) (err error) {
	path := filepath.Join(dir, "write-probe")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // the operator's own directory
	if err != nil {
		return unwritable(dir, err)
	}
	_, err = f.Write(make([]byte, probeSize))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close(), os.Remove(path)); err != nil {
		return unwritable(dir, err)
	}
	return nil
}

// unwritable says what to do about a failed write in dir.
func unwritable(dir string, err error) error {
	try := fmt.Sprintf("let this user (uid %d) write to it, or choose another directory", os.Geteuid())
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		try = "free some space, or choose another directory"
	}
	return fmt.Errorf("%s: can't write to %s: %w: %s", envDataDir, dir, err, try)
}

// storeCap returns the most bytes that streams in dir may take; see Config.StoreMax.
func storeCap(dir string, most int64) (int64, error) {
	free, err := freeBytes(dir)
	if err != nil {
		return 0, fmt.Errorf("%s: can't tell how much space %s has: %w", envDataDir, dir, err)
	}
	used, err := usedBytes(filepath.Join(dir, server.JetStreamStoreDir))
	if err != nil {
		return 0, fmt.Errorf("%s: can't read what %s holds: %w", envDataDir, dir, err)
	}
	limit, ok := share(free, used, most)
	if !ok {
		return 0, fmt.Errorf("%s: %s has %d MiB of free space, too little for a store (%d MiB at least): free some, or choose another directory",
			envDataDir, dir, free>>20, int64(minStore)>>20)
	}
	return limit, nil
}

// share returns the store's part of a disk with so many bytes free, and whether
// that is worth starting with. What the store already holds counts as free, or
// else the cap would shrink at each restart. A most of 0 sets no limit.
func share(free, used, most int64) (limit int64, ok bool) {
	limit = int64(float64(free+used) * storeShare)
	if limit < minStore {
		return 0, false
	}
	if most > 0 {
		limit = min(limit, most)
	}
	return limit, true
}

// freeBytes is what an ordinary user may still write to the file system of dir.
func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:gosec // blocks of one file system: far below 2^63 bytes
}

// usedBytes adds up the files below dir; a missing dir has none.
func usedBytes(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path == dir && errors.Is(err, fs.ErrNotExist) {
				return fs.SkipAll
			}
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sum += info.Size()
		return nil
	})
	return sum, err
}
