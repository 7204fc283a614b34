package embedded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// setAside is the directory, in the data directory, that keeps what was damaged.
const setAside = "damaged"

// salvage makes the store readable again: of each damaged block it keeps the
// records that can be read, where nats-server would keep those before the
// damage only. The damaged files are set aside.
func (s *Server) salvage(flaws []flaw) error {
	for _, f := range flaws {
		s.log.Error("accepted: a part of the store is lost", "what", f.what())
	}
	aside := s.aside()
	for _, f := range flaws {
		// The index describes what is no longer there; it is made anew.
		if err := aside.move(filepath.Join(filepath.Dir(f.path), "index.db")); err != nil {
			return err
		}
	}
	done := map[string]bool{}
	for _, f := range flaws {
		if f.block == nil || done[f.path] {
			continue
		}
		done[f.path] = true
		content, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		records, _ := decompress(content) // where that fails, nothing in it is good
		var kept []byte
		for _, p := range f.block.good { // places in what was decompressed
			kept = append(kept, records[p.from:p.to]...)
		}
		if err := aside.copy(f.path, content); err != nil {
			return err
		}
		if len(kept) == 0 {
			err = os.Remove(f.path)
		} else {
			err = writeSynced(f.path, kept)
		}
		if err != nil {
			return err
		}
		if err := syncDir(filepath.Dir(f.path)); err != nil {
			return err
		}
	}
	return nil
}

// checkConsumers compares the consumers' states with the inventory of a good
// stop. One that has changed could pass over events in silence: without it,
// what the stream still has is delivered again, which loses nothing.
func (s *Server) checkConsumers(was *stopped) error {
	if was == nil {
		return nil
	}
	aside := s.aside()
	for name, hash := range was.Consumers {
		path := filepath.Join(s.dir, name)
		switch now, err := hashFile(path); {
		case errors.Is(err, fs.ErrNotExist):
			s.log.Error("a consumer's state is missing; what its stream holds is delivered again", "file", path)
		case err != nil:
			return err
		case now != hash:
			s.log.Error("a consumer's state is damaged, and is set aside; what its stream holds is delivered again", "file", path)
			if err := aside.move(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// aside is where damaged files of one start go.
type aside struct{ root, dir string }

func (s *Server) aside() aside {
	return aside{s.dir, filepath.Join(s.dir, setAside, time.Now().UTC().Format("20060102T150405.000"))}
}

// path returns where a file goes, in a directory that is made.
func (a aside) path(from string) (string, error) {
	name, err := filepath.Rel(a.root, from)
	if err != nil {
		return "", err
	}
	to := filepath.Join(a.dir, name)
	return to, os.MkdirAll(filepath.Dir(to), 0o700)
}

// move sets a file aside; one that isn't there is no error.
func (a aside) move(from string) error {
	to, err := a.path(from)
	if err != nil {
		return err
	}
	err = os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(from))
}

// copy sets the content of a file aside.
func (a aside) copy(from string, content []byte) error {
	to, err := a.path(from)
	if err != nil {
		return err
	}
	return writeSynced(to, content)
}

// writeSynced writes a file so that after a power failure it has either its
// old content or the new one.
func writeSynced(path string, content []byte) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // in the operator's own directory
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes sure that what was made, renamed or removed in dir stays so.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // in the operator's own directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
