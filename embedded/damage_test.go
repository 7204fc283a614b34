package embedded

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// stock is a store with messages in several blocks, to be damaged.
type stock struct {
	crashed, stopped string // directories: as after a crash, and after a good stop
	blocks           []string
	messages         int
}

// makeStock publishes 100 messages of 1 KB into a stream with blocks of 32 kB,
// of which a consumer acknowledges ten.
func makeStock(t *testing.T) stock {
	t.Helper()
	k := stock{crashed: filepath.Join(t.TempDir(), "crashed"), stopped: filepath.Join(t.TempDir(), "stopped"), messages: 100}
	dir := t.TempDir()
	s := start(t, Config{DataDir: dir})
	js, err := jetstream.New(connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, MaxBytes: 127_600})
	if err != nil {
		t.Fatal(err)
	}
	for i := range k.messages {
		publish(t, js, fmt.Sprintf("%04d%s", i+1, strings.Repeat("x", 1000)))
	}
	c, err := stream.CreateOrUpdateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		msg, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// With sync always, the files of a running server are what a crash leaves.
	copyDir(t, dir, k.crashed)
	js.Conn().Close()
	s.Shutdown(t.Context())
	copyDir(t, dir, k.stopped)
	paths, err := filepath.Glob(filepath.Join(k.stopped, "jetstream", "$G", "streams", "S", "msgs", "*.blk"))
	if err != nil || len(paths) < 4 {
		t.Fatalf("%v: the store has the blocks %v, too few to damage one in the middle", err, paths)
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	for _, p := range paths {
		name, err := filepath.Rel(k.stopped, p)
		if err != nil {
			t.Fatal(err)
		}
		k.blocks = append(k.blocks, name)
	}
	return k
}

// copyDir copies a directory with the times of its files. A server that runs on
// it renames files meanwhile: one that is gone before it was read is no part of
// the copy, as it would be none of what a crash leaves.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return ignoreGone(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), content, info.Mode()); err != nil {
			return err
		}
		return os.Chtimes(filepath.Join(to, name), info.ModTime(), info.ModTime())
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Ways to damage a file.
func rewrite(how func([]byte) []byte) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, how(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func flip(b []byte) []byte  { b[len(b)/2] ^= 0x55; return b }
func half(b []byte) []byte  { return b[:len(b)/2+7] }
func zero(b []byte) []byte  { clear(b[len(b)/3 : len(b)/2]); return b }
func begin(b []byte) []byte { clear(b[:100]); return b }
func empty([]byte) []byte   { return nil }

// compress does to a block what nats-server does to those of a stream with S2.
func compress(b []byte) []byte {
	end := len(b) - recordChecksum
	var body bytes.Buffer
	w := s2.NewWriter(&body)
	_, err := w.Write(b[:end])
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err) // a Buffer takes everything
	}
	head := binary.AppendUvarint([]byte("cmp\x01"), uint64(len(b)))
	return slices.Concat(head, body.Bytes(), b[end:])
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

var acceptance = regexp.MustCompile(envAcceptLoss + `=([0-9a-f]{8}) `)

// No message is lost in silence: a store that nats-server would open, with a
// part missing, isn't opened; and it is opened with all that can be read when
// somebody accepts that very damage.
func TestDamagedBlocksAreRefused(t *testing.T) {
	k := makeStock(t)
	middle, last := k.blocks[1], k.blocks[len(k.blocks)-1]
	tests := []struct {
		why     string
		base    string
		file    string
		damage  func(*testing.T, string)
		atLeast int // messages that are there after the loss was accepted
	}{
		{"a byte, after a crash", k.crashed, middle, rewrite(flip), 99},
		{"a byte that was wrong before its block was compressed", k.crashed, middle, rewrite(func(b []byte) []byte { return compress(flip(b)) }), 99},
		{"the first record of a block, after a crash", k.crashed, middle, rewrite(begin), 99},
		{"zeros, after a crash", k.crashed, middle, rewrite(zero), 93},
		{"half a block in the middle, after a crash", k.crashed, middle, rewrite(half), 84},
		{"a byte in the last block, with messages behind it", k.crashed, last, rewrite(flip), 99},
		{"a byte, after a good stop", k.stopped, middle, rewrite(flip), 99},
		{"a byte in the last block, after a good stop", k.stopped, last, rewrite(flip), 99},
		{"a block in the middle is missing", k.stopped, middle, remove, 69},
		{"the first block is missing", k.stopped, k.blocks[0], remove, 69},
		{"the last block is missing", k.stopped, last, remove, 69},
		{"a block is empty", k.stopped, middle, rewrite(empty), 69},
		{"the last block ends early", k.stopped, last, rewrite(half), 90},
		{"the stream's directory is missing", k.stopped, filepath.Dir(filepath.Dir(last)), remove, 0},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			copyDir(t, tt.base, dir)
			tt.damage(t, filepath.Join(dir, tt.file))
			before := hashes(t, dir)
			var name string
			for range 2 { // and refused again
				_, err := Start(t.Context(), Config{DataDir: dir, Addr: AddrOff})
				checkMessage(t, err, envDataDir, "damaged", filepath.Join(dir, filepath.Dir(tt.file)), "$G > S", "restore a backup", envAcceptLoss)
				name = acceptance.FindStringSubmatch(err.Error())[1]
				_, err = Start(t.Context(), Config{DataDir: dir, Addr: AddrOff, AcceptLoss: "0badc0de"})
				checkMessage(t, err, "damaged")
			}
			if after := hashes(t, dir); !bytes.Equal(before, after) {
				t.Errorf("a refused start changed the store from\n%s\nto\n%s", before, after)
			}
			s := start(t, Config{DataDir: dir, AcceptLoss: name})
			if got := count(t, s, k.messages); got < tt.atLeast {
				t.Errorf("%d of %d messages are left, want %d", got, k.messages, tt.atLeast)
			}
			s.Shutdown(t.Context())
			start(t, Config{DataDir: dir}) // with nothing to accept any more
		})
	}
}

// hashes describes the files of a store.
func hashes(t *testing.T, dir string) []byte {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(filepath.Join(dir, "jetstream"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		hash, err := hashFile(path)
		fmt.Fprintln(&all, path, hash)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.Bytes()
}

// count makes the stream, if need be, and returns how many of the first so many
// messages it has, each of which has to be the one that was published.
func count(t *testing.T, s *Server, messages int) (there int) {
	t.Helper()
	_, stream := makeStream(t, s)
	for seq := 1; seq <= messages; seq++ {
		msg, err := stream.GetMsg(t.Context(), uint64(seq))
		if err != nil {
			continue
		}
		if want := fmt.Sprintf("%04d", seq); !strings.HasPrefix(string(msg.Data), want) {
			t.Errorf("message %d begins with %.4q", seq, msg.Data)
		}
		there++
	}
	return there
}

// What a power failure leaves at the end of a store was never acknowledged, and
// nobody has to come for it.
func TestEndOfACrashedStoreIsCutOff(t *testing.T) {
	k := makeStock(t)
	last := k.blocks[len(k.blocks)-1]
	grow := func(tail []byte) func([]byte) []byte { return func(b []byte) []byte { return append(b, tail...) } }
	tests := []struct {
		why    string
		damage func([]byte) []byte
		want   int
	}{
		{"nothing was under way", func(b []byte) []byte { return b }, 100},
		{"a record was half written", func(b []byte) []byte { return b[:len(b)-500] }, 99},
		{"its place was taken, and nothing written", grow(make([]byte, 4096)), 100},
		{"something else was there", grow(bytes.Repeat([]byte("\x17garbage"), 500)), 100},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			copyDir(t, k.crashed, dir)
			rewrite(tt.damage)(t, filepath.Join(dir, last))
			if got := count(t, start(t, Config{DataDir: dir}), k.messages); got != tt.want {
				t.Errorf("%d messages are left, want %d", got, tt.want)
			}
		})
	}
}

// An atomic batch is written at once: a hole in it, with the rest of it behind,
// is no damage. The same hole with anything else behind it is, and so is one
// that reaches back to what was there before the batch.
func TestUnsynced(t *testing.T) {
	in := func(batch string, place uint64) record { return record{batch: batch, place: place} }
	removed, single := record{removed: true}, in("", 0)
	tests := []struct {
		why     string
		missing uint64
		after   []record
		want    bool
	}{
		{"nothing", 0, nil, true},
		{"one message", 0, []record{single}, true},
		{"one message, after one that was synced", 1, []record{single}, false},
		{"notes of removed messages, and a message", 0, []record{removed, removed, single}, true},
		{"two messages, each of which was synced", 0, []record{single, single}, false},
		{"the rest of a batch", 2, []record{in("a", 3), in("a", 4), in("a", 5)}, true},
		{"the rest of a batch, after a message that was synced", 3, []record{in("a", 3), in("a", 4)}, false},
		{"a whole batch", 0, []record{in("a", 1), in("a", 2)}, true},
		{"a whole batch, after a message that was synced", 1, []record{in("a", 1), in("a", 2)}, false},
		{"a batch of one, after a message that was synced", 1, []record{in("a", 1)}, false},
		{"a batch, and something after it", 1, []record{in("a", 2), in("a", 3), single}, false},
		{"two batches", 1, []record{in("a", 2), in("b", 1)}, false},
	}
	s := start(t, Config{})
	for _, tt := range tests {
		for split := range len(tt.after) + 1 { // over two blocks
			var first, second tail
			for _, r := range tt.after[:split] {
				first.add(r)
			}
			for _, r := range tt.after[split:] {
				second.add(r)
			}
			d := damage{before: 10, after: first.then(second)}
			if d.after.messages > 0 {
				d.next = d.before + tt.missing + 1
			}
			if got := s.unsynced(d, false); got != tt.want {
				t.Errorf("%s, %d in the first block: %v", tt.why, split, got)
			}
		}
	}
}

// A byte of an acknowledged message is wrong, and what follows it was written at
// once, as the last before the crash. That is no torn write, and must not take
// the rest with it.
func TestDamageBeforeTheLastWriteIsRefused(t *testing.T) {
	for _, last := range []int{1, 20} {
		t.Run(fmt.Sprint(last), func(t *testing.T) {
			dir, crashed := t.TempDir(), filepath.Join(t.TempDir(), "crashed")
			s := start(t, Config{DataDir: dir})
			js, err := jetstream.New(connect(t, s))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowAtomicPublish: true}); err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				publish(t, js, fmt.Sprintf("%04d%s", i+1, strings.Repeat("x", 100)))
			}
			if last == 1 {
				publish(t, js, "one more")
			} else {
				publishBatch(t, js.Conn(), last)
			}
			copyDir(t, dir, crashed)
			rewrite(func(b []byte) []byte { b[bytes.Index(b, []byte("0010"))+20] ^= 0x55; return b })(
				t, filepath.Join(crashed, "jetstream", "$G", "streams", "S", "msgs", "1.blk"))
			_, err = Start(t.Context(), Config{DataDir: crashed, Addr: AddrOff})
			checkMessage(t, err, envDataDir, "damaged", "messages 10 to 10", "restore a backup", envAcceptLoss)
		})
	}
}

// publishBatch publishes n messages as one atomic batch.
func publishBatch(t *testing.T, nc *nats.Conn, n int) {
	t.Helper()
	for i := range n {
		m := nats.NewMsg("s.x")
		m.Data = fmt.Appendf(nil, "batched %d", i)
		m.Header.Set("Nats-Batch-Id", "b")
		m.Header.Set("Nats-Batch-Sequence", fmt.Sprint(i+1))
		if i < n-1 {
			if err := nc.PublishMsg(m); err != nil {
				t.Fatal(err)
			}
			continue
		}
		m.Header.Set("Nats-Batch-Commit", "1")
		ack, err := nc.RequestMsg(m, 5*time.Second)
		if err != nil || !bytes.Contains(ack.Data, []byte(`"batch"`)) {
			t.Fatalf("the batch: %v, %s", err, ack.Data)
		}
	}
}

// What a stream doesn't sync with every message may be torn anywhere in the last
// minutes, and nobody was promised it.
func TestTornRelaxedStreamStarts(t *testing.T) {
	dir, crashed := t.TempDir(), filepath.Join(t.TempDir(), "crashed")
	s := start(t, Config{DataDir: dir})
	js, err := jetstream.New(connect(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, PersistMode: jetstream.AsyncPersistMode}); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		publish(t, js, fmt.Sprintf("%04d%s", i+1, strings.Repeat("x", 100)))
	}
	s.Shutdown(t.Context()) // flushes what it has
	copyDir(t, dir, crashed)
	remove(t, filepath.Join(crashed, stoppedFile))
	rewrite(flip)(t, filepath.Join(crashed, "jetstream", "$G", "streams", "S", "msgs", "1.blk"))
	start(t, Config{DataDir: crashed})
}

// A consumer's state has no checksum: one that isn't as it was left could pass
// over events. Without it they are delivered again.
func TestDamagedConsumerStateLosesNothing(t *testing.T) {
	k := makeStock(t)
	state := filepath.Join("jetstream", "$G", "streams", "S", "obs", "d", "o.dat")
	for why, damage := range map[string]func(*testing.T, string){"changed": rewrite(flip), "empty": rewrite(empty), "missing": remove} {
		t.Run(why, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			copyDir(t, k.stopped, dir)
			damage(t, filepath.Join(dir, state))
			var log bytes.Buffer
			s := start(t, Config{DataDir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			js, err := jetstream.New(connect(t, s))
			if err != nil {
				t.Fatal(err)
			}
			c, err := js.Consumer(t.Context(), "S", "d")
			if err != nil {
				t.Fatal(err)
			}
			msg, err := c.Next()
			if err != nil || !strings.HasPrefix(string(msg.Data()), "0001") {
				t.Errorf("the first message comes again: %v, %v", msg, err)
			}
			if !strings.Contains(log.String(), "delivered again") {
				t.Errorf("the log doesn't tell:\n%s", &log)
			}
		})
	}
}

// A store that an older Backstop ran on, after one with inventories stopped, is
// not what the inventory says, and not damaged.
func TestInventoryOfAnotherRunIsIgnored(t *testing.T) {
	k := makeStock(t)
	lock, err := lockDir(k.stopped)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.release(); err != nil {
		t.Fatal(err)
	}
	remove(t, filepath.Join(k.stopped, k.blocks[0])) // as if it had been trimmed
	start(t, Config{DataDir: k.stopped})
}

// FuzzReadBlock: whatever is in a block file, reading it ends, and what it calls
// readable can be read.
func FuzzReadBlock(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("cmp\x01\x80"))
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "1.blk")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := readBlock(path, "S", 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		covered := 0
		for _, p := range b.good {
			covered += p.to - p.from
		}
		for _, d := range b.damage {
			covered += d.to - d.from
		}
		if !bytes.HasPrefix(content, []byte("cmp\x01")) && covered != len(content) {
			t.Errorf("%d bytes of %d are accounted for", covered, len(content))
		}
	})
}
