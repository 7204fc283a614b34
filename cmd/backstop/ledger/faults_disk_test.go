//go:build e2e

package ledger

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// disk is a file system of a run's own.
type disk struct {
	w     *world
	mount string
	loop  string // the device; "" for one in memory
}

// newDisk mounts one: ext4 on a loop device, which can lose its power, or a
// small one in memory, which can be filled.
func newDisk(w *world, power bool) *disk {
	w.Helper()
	d := &disk{w: w, mount: filepath.Join(w.dir, "disk")}
	w.must(os.Mkdir(d.mount, 0o700))
	if !power {
		w.must(run(w.ctx, "mount", "-t", "tmpfs", "-o", "size=640m", "faults", d.mount))
		return d
	}
	image := filepath.Join(w.dir, "image")
	w.must(os.WriteFile(image, nil, 0o600))
	w.must(os.Truncate(image, 1<<30))
	w.must(run(w.ctx, "mkfs.ext4", "-q", "-F", image))
	out, err := exec.CommandContext(w.ctx, "losetup", "--find", "--show", image).Output()
	w.must(err)
	d.loop = strings.TrimSpace(string(out))
	w.must(run(w.ctx, "mount", "-t", "ext4", d.loop, d.mount))
	return d
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func (d *disk) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil && run(ctx, "umount", d.mount) != nil {
		pause(ctx, 100*time.Millisecond)
	}
	if d.loop != "" {
		_ = run(ctx, "losetup", "--detach", d.loop)
	}
}

// EXT4_IOC_SHUTDOWN, and its argument that lets nothing more reach the disk,
// not even the journal.
const (
	ext4Shutdown   = 0x8004587d
	withoutLogging = 2
)

// powerLoss takes the power from the disk and the replica: what the kernel has
// not written is gone. After a while both are started again.
func (w *world) powerLoss(r *replica, after time.Duration) {
	w.fault("power lost", true, func() {
		r.gate.Lock()
		r.mayEnd.Store(true) // it may be starting when the power goes again
		// Nothing runs on when the power is gone. Were the process not stopped
		// first, it could acknowledge what it wrote into the moment of the cut.
		r.freeze()
		dir, err := os.Open(w.disk.mount)
		if err == nil {
			how := uint32(withoutLogging)
			_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, dir.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&how)))
			if errno != 0 {
				err = errno
			}
			_ = dir.Close()
		}
		exited := r.exited
		_ = r.serve.Process.Kill()
		if err != nil {
			w.problem("the power can't be cut: %v", err)
		}
		end := <-exited
		exited <- end
		for w.ctx.Err() == nil {
			if err = run(w.ctx, "umount", w.disk.mount); err == nil {
				break
			}
			pause(w.ctx, 50*time.Millisecond)
		}
		pause(w.ctx, after)
		if err := run(w.ctx, "mount", "-t", "ext4", w.disk.loop, w.disk.mount); err != nil {
			w.problem("after the power loss: %v", err)
		}
		r.gate.Unlock()
		for w.ctx.Err() == nil && !r.ready() {
			pause(w.ctx, 50*time.Millisecond)
		}
	})
}

// freeze stops the process, and returns when it has stopped or is gone.
func (r *replica) freeze() {
	_ = r.serve.Process.Signal(syscall.SIGSTOP)
	stat := filepath.Join("/proc", strconv.Itoa(r.serve.Process.Pid), "stat")
	for r.ctx.Err() == nil {
		text, err := os.ReadFile(stat)
		_, state, _ := strings.Cut(string(text), ") ")
		if err != nil || strings.HasPrefix(state, "T") || strings.HasPrefix(state, "Z") {
			return
		}
		pause(r.ctx, time.Millisecond)
	}
}

// diskFull fills the disk for a while, as another program does, and frees it.
// Nobody restarts serve for that: it has to go on by itself.
func (w *world) diskFull(r *replica, long time.Duration) {
	w.fault("disk full", true, func() {
		r.mayEnd.Store(true)
		filler := filepath.Join(w.disk.mount, "filler")
		f, err := os.Create(filler)
		if err != nil {
			w.problem("the disk can't be filled: %v", err)
			return
		}
		for block := make([]byte, 1<<20); err == nil; {
			_, err = f.Write(block)
		}
		_ = f.Close()
		pause(w.ctx, 2*time.Second+long)
		if err := os.Remove(filler); err != nil {
			w.problem("the disk can't be freed: %v", err)
		}
		for w.ctx.Err() == nil && !r.ready() {
			pause(w.ctx, 50*time.Millisecond)
		}
	})
}
