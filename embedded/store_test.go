package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

func TestDataDirIsMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	start(t, Config{DataDir: dir})
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("made with mode %o: others may read events and secrets", got)
	}
}

func TestDataDirThatCantBe(t *testing.T) {
	tmp := t.TempDir()
	file := filepath.Join(tmp, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		why, dir string
		want     []string
	}{
		{"not set", "", []string{"empty"}},
		{"a missing parent is a typing mistake or a volume not mounted", filepath.Join(tmp, "missing", "data"), []string{"missing", "does not exist"}},
		{"a file", file, []string{file, "not a directory"}},
		{"below a file", filepath.Join(file, "data"), []string{file, "not a directory"}},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			_, err := Start(t.Context(), Config{DataDir: tt.dir, Addr: AddrOff})
			checkMessage(t, err, append(tt.want, envDataDir)...)
		})
	}
}

func TestDataDirNotWritable(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	asOrdinaryUser(t, func() {
		_, err := Start(t.Context(), Config{DataDir: dir, Addr: AddrOff})
		checkMessage(t, err, envDataDir, dir, "permission denied", "uid", "another directory")
		_, err = Start(t.Context(), Config{DataDir: filepath.Join(dir, "data"), Addr: AddrOff})
		checkMessage(t, err, envDataDir, dir, "permission denied", "uid", "another directory")
	})
}

// asOrdinaryUser runs f without root's right to write everywhere. The user id
// for file access belongs to a thread, which ends with the goroutine.
func asOrdinaryUser(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread is not fit for others
		if err := syscall.Setfsuid(65534); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func TestShare(t *testing.T) {
	const gib = 1 << 30
	tests := []struct {
		why              string
		free, used, most int64
		want             int64 // 0: too little
	}{
		{"80% of what is free", 10 * gib, 0, 0, 8 * gib},
		{"what the store holds counts, so that a restart changes nothing", 4 * gib, 6 * gib, 0, 8 * gib},
		{"a lower limit is taken", 10 * gib, 0, gib, gib},
		{"a limit can't go above the disk", 10 * gib, 0, 20 * gib, 8 * gib},
		{"a low limit is somebody's wish, not a full disk", 10 * gib, 0, 1 << 20, 1 << 20},
		{"a nearly full disk", 16 << 20, 0, 0, 0},
		{"a full disk with a store on it starts, so that it can be emptied", 0, gib, 0, gib / 10 * 8},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			got, ok := share(tt.free, tt.used, tt.most)
			// Floats round: a KiB is near enough.
			if got>>10 != tt.want>>10 || ok != (tt.want != 0) {
				t.Errorf("got %d, %v, want %d", got, ok, tt.want)
			}
		})
	}
}

func TestUsedBytes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "sub/b", "sub/sub/c"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]int64{dir: 3000, filepath.Join(dir, "missing"): 0} {
		if got, err := usedBytes(path); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", path, got, err, want)
		}
	}
}

// A full store refuses publishes with a clear error, still gives out what it
// holds, and takes new messages when there is room again.
func TestStoreMax(t *testing.T) {
	s := start(t, Config{StoreMax: 1 << 20, Sync: "1h"})
	js, stream := makeStream(t, s)
	payload := string(make([]byte, 100<<10))
	var err error
	for range 20 {
		if _, err = js.Publish(t.Context(), "s.a", []byte(payload)); err != nil {
			break
		}
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != 10023 {
		t.Fatalf("publishing 2 MB into 1 MiB: %v, want error 10023 (insufficient resources)", err)
	}
	if _, err := stream.GetMsg(t.Context(), 1); err != nil {
		t.Errorf("reading from a full store: %v", err)
	}
	if err := s.Health(); err != nil {
		t.Errorf("a full store is no fault of the server: %v", err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, js, payload)
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockDir(dir)
	checkMessage(t, err, envDataDir, dir, "process "+strconv.Itoa(os.Getpid()), "another directory")

	// Between taking the lock and writing the pid there is none to name.
	if err := lock.f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	_, err = lockDir(dir)
	checkMessage(t, err, "another process")

	if err := lock.release(); err != nil {
		t.Fatal(err)
	}
	lock, err = lockDir(dir)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	if err := lock.release(); err != nil {
		t.Fatal(err)
	}
}
