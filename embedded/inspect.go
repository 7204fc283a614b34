package embedded

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// envAcceptLoss names the setting of Config.AcceptLoss.
const envAcceptLoss = "BACKSTOP_ACCEPT_LOSS"

// unsyncedTime is added to an interval of syncs: what was written within it may
// be unreadable after a power failure.
const unsyncedTime = 5 * time.Second

// flaw is something that is wrong with a block file.
type flaw struct {
	stream  string // "$G > EVENTS_analytics"
	path    string
	missing bool // the file isn't there
	damage
	block *block // nil when missing
}

// what says it in a few words.
func (f flaw) what() string {
	var lost string
	switch n := f.lost(); {
	case f.next == 0:
		lost = fmt.Sprintf("what follows message %d", f.before)
	case n > 0:
		lost = fmt.Sprintf("messages %d to %d", f.before+1, f.next-1)
	default:
		lost = "a note of removed messages"
	}
	if f.missing {
		return fmt.Sprintf("%s is missing, with %s of stream %s", f.path, lost, f.stream)
	}
	return fmt.Sprintf("%s can't be read from byte %d to %d, with %s of stream %s", f.path, f.from, f.to, lost, f.stream)
}

// inspect reads every block file before nats-server does, which would say
// nothing and lose more: at a damaged record it cuts off the rest of the file,
// and goes on without a file that is missing (2.15.2). What a power failure
// leaves, which was never acknowledged, is left to it. Anything else is an
// error that says what to do, and nothing is changed; unless that very damage
// was accepted, in which case what can be read is kept.
func (s *Server) inspect() error {
	began := time.Now()
	was, err := readStopped(s.dir, s.lock.before)
	if err != nil {
		return fmt.Errorf("%s: %w", envDataDir, err)
	}
	flaws, read, err := s.flaws(was)
	if err != nil {
		return fmt.Errorf("%s: can't read what %s holds: %w", envDataDir, s.dir, err)
	}
	if took := time.Since(began); took > time.Second {
		s.log.Info("the store has been read and checked", "mib", read>>20, "took", took.Round(time.Millisecond))
	}
	if len(flaws) > 0 {
		if id := nameOf(flaws); s.acceptLoss != id {
			return refusal(flaws, id, s.dir)
		}
		if err := s.salvage(flaws); err != nil {
			return fmt.Errorf("%s: can't repair the store: %w", envDataDir, err)
		}
	}
	if err := s.checkConsumers(was); err != nil {
		return fmt.Errorf("%s: can't repair the store: %w", envDataDir, err)
	}
	return removeStopped(s.dir)
}

// refusal says in one line what is wrong and what can be done.
func refusal(flaws []flaw, id, dir string) error {
	more := ""
	if n := len(flaws) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	return fmt.Errorf("%s: the store is damaged: %s%s: restore a backup; or start once with %s=%s to go on without what can't be read, which is then kept in %s",
		envDataDir, flaws[0].what(), more, envAcceptLoss, id, filepath.Join(dir, setAside))
}

// nameOf is a short name of just this damage, so that no other is accepted by
// a setting that somebody forgot.
func nameOf(flaws []flaw) string {
	h := sha256.New()
	for _, f := range flaws {
		_, _ = fmt.Fprintln(h, f.stream, filepath.Base(f.path), f.missing, f.from, f.to)
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
}

// flaws finds what is wrong with the block files of every stream, in a fixed
// order. was is nil unless the server was stopped well.
func (s *Server) flaws(was *stopped) (found []flaw, read int64, err error) {
	root := filepath.Join(s.dir, server.JetStreamStoreDir)
	dirs, err := filepath.Glob(filepath.Join(root, "*", "streams", "*", "msgs"))
	if err != nil {
		return nil, 0, err
	}
	dirs = append(dirs, was.streams(s.dir)...)
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		stream := filepath.Base(filepath.Dir(dir))
		blocks, err := readBlocks(dir, stream)
		if err != nil {
			return nil, 0, err
		}
		account := filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(dir))))
		for _, f := range slices.Concat(was.missing(s.dir, dir, blocks), s.intolerable(blocks, was != nil, isRelaxed(dir))) {
			f.stream = account + " > " + stream
			found = append(found, f)
		}
		for _, b := range blocks {
			read += b.size
		}
	}
	return found, read, nil
}

// readBlocks reads the blocks of a stream, in order.
func readBlocks(dir, stream string) ([]*block, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var indexes []int
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".blk"); ok {
			if n, err := strconv.Atoi(name); err == nil {
				indexes = append(indexes, n)
			}
		}
	}
	slices.Sort(indexes)
	var blocks []*block
	last := uint64(0)
	for _, n := range indexes {
		b, err := readBlock(filepath.Join(dir, strconv.Itoa(n)+".blk"), stream, n, last)
		if err != nil {
			return nil, err
		}
		last = b.last
		blocks = append(blocks, b)
	}
	return blocks, nil
}

// intolerable returns the damage that no power failure explains, and after a
// good stop all there is. The rest was not synced, and so, with sync always,
// not acknowledged: nats-server cuts it off.
func (s *Server) intolerable(blocks []*block, stoppedWell, relaxed bool) (found []flaw) {
	var later tail // what comes after this block
	next := uint64(0)
	for _, b := range slices.Backward(blocks) {
		for _, d := range slices.Backward(b.damage) {
			d.after, d.next = d.after.then(later), cmp.Or(d.next, next)
			if stoppedWell || !s.unsynced(d, relaxed) {
				found = append(found, flaw{path: b.path, damage: d, block: b})
				continue
			}
			s.log.Warn("the end of a block file can't be read, as after a power failure, and is cut off; with sync always, none of it had been acknowledged",
				"file", b.path, "from", d.from, "to", d.to, "messages_after", d.after.messages)
		}
		later, next = b.all.then(later), cmp.Or(b.first, next)
	}
	slices.Reverse(found)
	return found
}

// unsynced tells whether a damage may have been unsynced, together with what
// comes after it. With sync always one write is unsynced at a time: a message,
// with the notes of removed messages before it, or an atomic batch. So a message
// that is missing can only be of the batch whose rest comes after it: one before
// the batch was synced, and acknowledged. (A byte in such a one once took the
// whole batch with it, 201 acknowledged messages, without a word.) With an
// interval, and in a stream that is not synced with every message, it is what
// was written within the interval.
func (s *Server) unsynced(d damage, relaxed bool) bool {
	after := d.after
	switch {
	case after.messages == 0:
		return true
	case !s.opts.SyncAlways || relaxed:
		return time.Duration(after.to-after.from) <= cmp.Or(s.opts.SyncInterval, serverSyncInterval)+unsyncedTime
	case d.lost() == 0:
		return after.messages == 1 || after.batch != ""
	}
	return after.batch != "" && d.lost() < after.place
}

// serverSyncInterval is nats-server's own, for streams that ask to be synced by
// the interval while the server syncs always.
const serverSyncInterval = 2 * time.Minute

// isRelaxed tells whether the stream with these messages asked not to be synced
// with every one of them (PersistMode).
func isRelaxed(msgs string) bool {
	meta, err := os.ReadFile(filepath.Join(filepath.Dir(msgs), server.JetStreamMetaFile))
	return err == nil && bytes.Contains(meta, []byte(`"persist_mode":"async"`))
}
