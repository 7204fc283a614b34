package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// stoppedFile is the inventory that a good stop leaves beside the store. It is
// gone while the server runs, and after a crash.
const stoppedFile = "stopped.json"

// stopped is an inventory: what has to be there unchanged at the next start.
// Paths are relative to the data directory.
type stopped struct {
	// Lock is when the lock file was last written, in nanoseconds: whoever
	// starts on the directory writes it, also a Backstop that doesn't know of
	// inventories and would leave an old one.
	Lock      int64             `json:"lock"`
	Blocks    map[string]int64  `json:"blocks"`    // size of each block file
	Consumers map[string]string `json:"consumers"` // hash of each consumer's state, which has no checksum of its own
}

// consumerState is the name of the file with a consumer's state.
const consumerState = "o.dat"

// takeStock makes the inventory.
func takeStock(dir string) (*stopped, error) {
	s := &stopped{Blocks: map[string]int64{}, Consumers: map[string]string{}}
	root := filepath.Join(dir, server.JetStreamStoreDir)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch {
		case strings.HasSuffix(path, ".blk"):
			info, err := d.Info()
			if err != nil {
				return err
			}
			s.Blocks[name] = info.Size()
		case d.Name() == consumerState:
			s.Consumers[name], err = hashFile(path)
		}
		return err
	})
	return s, err
}

func hashFile(path string) (string, error) {
	content, err := os.ReadFile(path) //nolint:gosec // in the operator's own directory
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:8]), err
}

// noteStopped leaves the inventory. Without it the next start takes the store
// for one that crashed, which is no harm.
func noteStopped(dir string, lock int64) error {
	s, err := takeStock(dir)
	if err != nil {
		return err
	}
	s.Lock = lock
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, stoppedFile), text)
}

// readStopped returns the inventory, or nil if there is none, or one of another
// run than that which wrote the lock last.
func readStopped(dir string, lock int64) (*stopped, error) {
	path := filepath.Join(dir, stoppedFile)
	text, err := os.ReadFile(path) //nolint:gosec // in the operator's own directory
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // a crash is no error
	}
	if err != nil {
		return nil, err
	}
	var s stopped
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w: restore a backup; or remove that file, if you are sure that the rest of the directory is whole", path, err)
	}
	if s.Lock != lock {
		return nil, nil //nolint:nilnil // as after a crash
	}
	return &s, nil
}

// removeStopped takes the inventory away before the server changes the store.
func removeStopped(dir string) error {
	err := os.Remove(filepath.Join(dir, stoppedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return unwritable(dir, err)
	}
	return nil
}

// streams returns the directories with block files, below dir.
func (s *stopped) streams(dir string) (dirs []string) {
	if s == nil {
		return nil
	}
	for name := range s.Blocks {
		dirs = append(dirs, filepath.Join(dir, filepath.Dir(name)))
	}
	return dirs
}

// missing returns what the inventory has of a stream and the disk has not,
// whole or in part. A damaged block is found by reading it.
func (s *stopped) missing(dir, msgs string, blocks []*block) (found []flaw) {
	if s == nil {
		return nil
	}
	there := map[string]*block{}
	for _, b := range blocks {
		there[b.path] = b
	}
	for name, size := range s.Blocks {
		path := filepath.Join(dir, name)
		if filepath.Dir(path) != msgs {
			continue
		}
		b := there[path]
		if b != nil && (b.size >= size || len(b.damage) > 0) {
			continue
		}
		index, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".blk"))
		f := flaw{path: path, missing: b == nil, block: b}
		for _, other := range blocks { // in order
			if other.index <= index {
				f.before = other.last
			} else if f.next == 0 {
				f.next = other.first
			}
		}
		if b != nil {
			f.from, f.to = int(b.size), int(size)
		}
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b flaw) int { return strings.Compare(a.path, b.path) })
	return found
}
