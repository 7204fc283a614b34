//go:build e2e

package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The machine's clock is left alone, and its disk is no slower for anybody
// else: programs of the rig are built with a standard library that looks at
// two dials, in memory that the rig shares with the process.
//
// Only the wall clock has a dial. The monotonic clock, which timers and
// differences of times go by, stays true, as it does when an operator or NTP
// sets a real clock.

// dialsEnv names the file of a process's dials. Without it they stand at zero.
const dialsEnv = "BACKSTOP_RIG_DIALS"

// The dials, each a number of 8 bytes.
const (
	clockDial = 8 * iota // seconds that the wall clock is ahead
	syncDial             // nanoseconds that a sync to disk takes longer
	dialsSize
)

// dialsSource is added to package time.
const dialsSource = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var rigDials = func() *[2]int64 {
	name, _ := syscall.Getenv("` + dialsEnv + `")
	if name == "" {
		return new([2]int64)
	}
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("` + dialsEnv + `: " + err.Error())
	}
	defer syscall.Close(fd)
	shared, err := syscall.Mmap(fd, 0, 16, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("` + dialsEnv + `: " + err.Error())
	}
	return (*[2]int64)(unsafe.Pointer(&shared[0]))
}()

func rigNow() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = runtimeNow()
	return sec + atomic.LoadInt64(&rigDials[0]), nsec, mono
}

// RigSync is how much longer a sync to disk takes.
func RigSync() Duration { return Duration(atomic.LoadInt64(&rigDials[1])) }
`

// change is one place of the standard library, and what it becomes.
type change struct{ file, was, becomes string }

// The changes. A file that is written with O_SYNC is opened anew each time, by
// nats-server, so that the wait may be there.
var changes = []change{
	{"time/time.go", "func Now() Time {\n\tsec, nsec, mono := runtimeNow()", "func Now() Time {\n\tsec, nsec, mono := rigNow()"},
	{"internal/poll/fd_fsync_posix.go", "import \"syscall\"", "import (\n\t\"syscall\"\n\t\"time\"\n)"},
	{"internal/poll/fd_fsync_posix.go", "\treturn ignoringEINTR(", "\ttime.Sleep(time.RigSync())\n\treturn ignoringEINTR("},
	{"os/file.go", "func OpenFile(name string, flag int, perm FileMode) (*File, error) {\n", "func OpenFile(name string, flag int, perm FileMode) (*File, error) {\n\tif flag&O_SYNC != 0 {\n\t\ttime.Sleep(time.RigSync())\n\t}\n"},
}

// overlay writes what `go build -overlay` takes to change the standard library,
// and returns the name of that file.
func overlay(t *testing.T, ctx context.Context) string {
	t.Helper()
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, dir := filepath.Join(strings.TrimSpace(string(root)), "src"), t.TempDir()
	replace := map[string]string{}
	put := func(name string, text []byte) {
		replace[filepath.Join(source, name)] = filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(replace[filepath.Join(source, name)], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("time/rig_dials.go", []byte(dialsSource))
	texts := map[string][]byte{}
	for _, c := range changes {
		if texts[c.file] == nil {
			if texts[c.file], err = os.ReadFile(filepath.Join(source, c.file)); err != nil {
				t.Fatal(err)
			}
		}
		if bytes.Count(texts[c.file], []byte(c.was)) != 1 {
			t.Fatalf("this Go's %s has another form than the rig knows: %q is not there once", c.file, c.was)
		}
		texts[c.file] = bytes.Replace(texts[c.file], []byte(c.was), []byte(c.becomes), 1)
		put(c.file, texts[c.file])
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// dials are those of one process, however often it is started again.
type dials struct {
	file string
	mem  []byte
}

func newDials(t *testing.T, dir, name string) *dials {
	t.Helper()
	d := &dials{file: filepath.Join(dir, name+".dials")}
	f, err := os.Create(d.file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(dialsSize); err != nil {
		t.Fatal(err)
	}
	d.mem, err = syscall.Mmap(int(f.Fd()), 0, dialsSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(d.mem) })
	return d
}

func (d *dials) env() string { return dialsEnv + "=" + d.file }

// setClock has the wall clock go ahead by so many whole seconds.
func (d *dials) setClock(ahead time.Duration) { d.turn(clockDial, int64(ahead/time.Second)) }

// setSync has each sync to disk take so much longer.
func (d *dials) setSync(longer time.Duration) { d.turn(syncDial, int64(longer)) }

func (d *dials) turn(dial int, to int64) {
	binary.NativeEndian.PutUint64(d.mem[dial:], uint64(to)) // may be negative, and stays so
}

// TestE2EDials: a program that was built with the overlay goes by its dials.
func TestE2EDials(t *testing.T) {
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	text := `package main

import ("fmt"; "os"; "time")

func main() {
	wall, began := time.Now().Unix(), time.Now()
	f, err := os.Create(os.Args[1])
	if err == nil { err = f.Sync() }
	fmt.Println(wall, time.Since(began).Milliseconds(), err)
}
`
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay(t, t.Context()), "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := newDials(t, dir, "program")
	d.setClock(-time.Hour)
	d.setSync(300 * time.Millisecond)
	cmd := exec.CommandContext(t.Context(), program, filepath.Join(dir, "synced"))
	cmd.Env = append(os.Environ(), d.env())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var wall, took int64
	var end string
	if _, err := fmt.Sscan(string(out), &wall, &took, &end); err != nil || end != "<nil>" {
		t.Fatalf("it said %q (%v)", out, err)
	}
	if behind := time.Since(time.Unix(wall, 0)); behind < 59*time.Minute || behind > 61*time.Minute {
		t.Errorf("its clock is %v behind, want an hour", behind)
	}
	if took < 300 || took > 60_000 {
		t.Errorf("a sync took %d ms by its monotonic clock, want 300 and a little", took)
	}
}
