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

// newDisk mounts one at a place in the run's directory: ext4 on a loop device,
// which can lose its power, or a small one in memory, which can be filled.
func newDisk(w *world, name string, power bool) *disk {
	w.Helper()
	d := &disk{w: w, mount: filepath.Join(w.dir, name)}
	w.disks = append(w.disks, d)
	w.must(os.Mkdir(d.mount, 0o700))
	if !power {
		w.must(run(w.ctx, "mount", "-t", "tmpfs", "-o", "size=640m", "faults", d.mount))
		return d
	}
	image := d.mount + ".image"
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

// cutPower takes the power from a file system: what the kernel has not written
// is gone.
func cutPower(mount string) error {
	dir, err := os.Open(mount)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	how := uint32(withoutLogging)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, dir.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		return errno
	}
	return nil
}

func (d *disk) cut() {
	if err := cutPower(d.mount); err != nil {
		d.w.problem("the power can't be cut: %v", err)
	}
}

// unmount lets go of a disk whose power was cut, once nobody has it open.
func (d *disk) unmount() {
	for d.w.ctx.Err() == nil && run(d.w.ctx, "umount", d.mount) != nil {
		pause(d.w.ctx, 50*time.Millisecond)
	}
}

// remount brings back what had reached the disk.
func (d *disk) remount() {
	if err := run(d.w.ctx, "mount", "-t", "ext4", d.loop, d.mount); err != nil {
		d.w.problem("after the power loss: %v", err)
	}
}

// powerLoss takes the power from the disk and the replica. After a while both
// are started again.
func (w *world) powerLoss(r *replica, after time.Duration) {
	w.fault("power lost", true, func() {
		r.gate.Lock()
		r.mayEnd.Store(true) // it may be starting when the power goes again
		freeze(w.ctx, r.serve.Process)
		w.disks[0].cut()
		exited := r.exited
		_ = r.serve.Process.Kill()
		end := <-exited
		exited <- end
		w.disks[0].unmount()
		pause(w.ctx, after)
		w.disks[0].remount()
		r.gate.Unlock()
		for w.ctx.Err() == nil && !r.ready() {
			pause(w.ctx, 50*time.Millisecond)
		}
	})
}

// nodesLosePower takes it from NATS servers at the same moment, or as near as a
// program gets to that, and from their disks.
func (w *world) nodesLosePower(what string, after time.Duration, nodes ...*node) {
	w.fault(what, true, func() {
		for _, n := range nodes {
			freeze(w.ctx, n.cmd.Process)
		}
		for _, n := range nodes {
			n.disk.cut()
		}
		for _, n := range nodes {
			n.kill()
			n.disk.unmount()
		}
		pause(w.ctx, after)
		for _, n := range nodes {
			n.disk.remount()
		}
		w.startAgain(nodes...)
	})
}

// freeze stops a process before its power goes, and returns when it has stopped or is
// gone: nothing runs on then. It could otherwise acknowledge what it wrote into
// the moment of the cut.
func freeze(ctx context.Context, process *os.Process) {
	_ = process.Signal(syscall.SIGSTOP)
	stat := filepath.Join("/proc", strconv.Itoa(process.Pid), "stat")
	for ctx.Err() == nil {
		text, err := os.ReadFile(stat)
		_, state, _ := strings.Cut(string(text), ") ")
		if err != nil || strings.HasPrefix(state, "T") || strings.HasPrefix(state, "Z") {
			return
		}
		pause(ctx, time.Millisecond)
	}
}

// diskFull fills the disk for a while, as another program does, and frees it.
// Nobody restarts serve for that: it has to go on by itself.
func (w *world) diskFull(r *replica, long time.Duration) {
	w.fault("disk full", true, func() {
		r.mayEnd.Store(true)
		filler := filepath.Join(w.disks[0].mount, "filler")
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
