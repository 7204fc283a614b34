package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// dirLock keeps a data directory for this process. Two servers on one store
// would overwrite each other's files, and nats-server doesn't look.
type dirLock struct {
	f      *os.File
	before int64 // when it was last written before us, in nanoseconds
}

// lockDir takes the lock of dir, or says who has it. The lock is the kernel's
// (flock), so that it goes with the process however that ends; the file's
// content, the pid, only serves the error message.
func lockDir(dir string) (*dirLock, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator's own directory
	if err != nil {
		return nil, unwritable(dir, err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("%s: %s is in use by %s: stop that one, or choose another directory", envDataDir, dir, holder(f))
		return nil, errors.Join(err, f.Close())
	}
	if err != nil {
		err = fmt.Errorf("%s: can't lock %s: %w: choose a directory on a local disk", envDataDir, path, err)
		return nil, errors.Join(err, f.Close())
	}
	l := &dirLock{f: f}
	if l.before, err = l.written(); err == nil {
		err = writePID(f)
	}
	if err != nil {
		return nil, errors.Join(unwritable(dir, err), f.Close())
	}
	return l, nil
}

// written returns when the file was last written, in nanoseconds.
func (l *dirLock) written() (int64, error) {
	info, err := l.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.ModTime().UnixNano(), nil
}

// giveUp releases the lock of a start that came to nothing, and leaves no trace
// of it: the store is as the last run left it.
func (l *dirLock) giveUp() error {
	before := time.Unix(0, l.before)
	return errors.Join(os.Chtimes(l.f.Name(), before, before), l.release())
}

// holder names the process that wrote the lock file. The file may still be
// empty, as the lock is taken before the pid is written.
func holder(f *os.File) string {
	b, err := io.ReadAll(io.LimitReader(f, 20))
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return "process " + pid
	}
	return "another process"
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := fmt.Fprintln(f, os.Getpid())
	return err
}

// release gives the directory back. The file stays: removing it would let a
// third process lock a file that a second one has already opened.
func (l *dirLock) release() error { return l.f.Close() }
