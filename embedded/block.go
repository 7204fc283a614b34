package embedded

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"

	"github.com/klauspost/compress/s2"
	"github.com/minio/highwayhash"
)

// A block file of nats-server is a run of records: total length (4 bytes, the
// highest bit for headers), sequence (8, the two highest bits for what is
// removed), time (8), length of the subject (2), subject, headers, payload, and
// a checksum (8) over all that follows the length. Little-endian.
const (
	recordHead     = 22
	recordChecksum = 8
	recordMax      = 32 << 20 // what nats-server takes for a mistake
	headersBit     = 1 << 31
	removedBits    = 3 << 62
)

// block is what a block file holds, as far as it can be read.
type block struct {
	path   string
	index  int
	size   int64
	first  uint64  // the first sequence that can be read
	last   uint64  // the last that any record speaks of, also one that notes a removal
	good   []piece // the runs of records that can be read
	damage []damage
	all    tail
}

// piece is a part of a file.
type piece struct{ from, to int }

// damage is a part of a block file that can't be read.
type damage struct {
	piece
	before uint64 // the last sequence before it, in this or an earlier file
	next   uint64 // the first sequence after it, 0 if there is none
	after  tail   // what comes after it in the file
}

// lost is how many messages it may have held, if anything comes after it.
func (d damage) lost() uint64 {
	if d.next <= d.before {
		return 0
	}
	return d.next - d.before - 1
}

// tail is what can be read after some place.
type tail struct {
	messages int
	batch    string // of the messages, if all are of one atomic batch
	place    uint64 // of the first message in its batch, from 1; 0 if it has none
	from, to int64  // times of the records
}

func (t *tail) add(r record) {
	if t.from == 0 {
		t.from = r.time
	}
	t.to = max(t.to, r.time)
	if r.removed {
		return
	}
	if t.messages++; t.messages == 1 {
		t.batch, t.place = r.batch, r.place
	} else if t.batch != r.batch {
		t.batch = ""
	}
}

// then adds what comes after the tail.
func (t tail) then(later tail) tail {
	switch {
	case t.messages == 0:
		t.batch, t.place = later.batch, later.place
	case later.messages > 0 && later.batch != t.batch:
		t.batch = ""
	}
	t.messages += later.messages
	t.from, t.to = cmp.Or(t.from, later.from), max(t.to, later.to)
	return t
}

// record is one record of a block.
type record struct {
	length  int
	seq     uint64 // without the bits
	removed bool
	time    int64
	batch   string // the id of its atomic batch, if it has one
	place   uint64 // in the batch, from 1
}

// readBlock reads and checks a block file of the stream, whose blocks before it
// end with the sequence last.
func readBlock(path, stream string, index int, last uint64) (*block, error) {
	buf, err := os.ReadFile(path) //nolint:gosec // in the operator's own directory
	if err != nil {
		return nil, err
	}
	b := &block{path: path, index: index, size: int64(len(buf)), last: last}
	if buf, err = decompress(buf); err != nil {
		b.damage = []damage{{piece: piece{0, int(b.size)}, before: last}}
		return b, nil //nolint:nilerr // the block is what is wrong, and says so
	}
	key := sha256.Sum256([]byte(stream + "-" + strconv.Itoa(index)))
	sum, err := highwayhash.NewDigest64(key[:])
	if err != nil {
		return nil, fmt.Errorf("checksums: %w", err)
	}
	b.scan(buf, sum)
	return b, nil
}

// decompress undoes S2, with which a stream may be configured. The checksum of
// the last record is kept as it was.
func decompress(buf []byte) ([]byte, error) {
	if len(buf) < 5 || !bytes.HasPrefix(buf, []byte("cmp\x01")) {
		return buf, nil
	}
	_, n := binary.Uvarint(buf[4:])
	if n <= 0 || 4+n+recordChecksum > len(buf) {
		return nil, io.ErrUnexpectedEOF
	}
	body, sum := buf[4+n:len(buf)-recordChecksum], buf[len(buf)-recordChecksum:]
	out, err := io.ReadAll(s2.NewReader(bytes.NewReader(body)))
	return append(out, sum...), err
}

// scan goes through the records, and past what can't be read to the next one.
func (b *block) scan(buf []byte, sum hash.Hash) {
	at := 0
	for at < len(buf) {
		r, ok := parseRecord(buf[at:], sum)
		if ok {
			b.add(r, piece{at, at + r.length})
			at += r.length
			continue
		}
		from := at
		for at++; at < len(buf); at++ {
			if b.plausible(buf[at:]) {
				if _, ok = parseRecord(buf[at:], sum); ok {
					break
				}
			}
		}
		b.damage = append(b.damage, damage{piece: piece{from, at}, before: b.last})
	}
}

// plausible tells whether a record may begin here, before its checksum is
// computed over what may be megabytes.
func (b *block) plausible(buf []byte) bool {
	if len(buf) < recordHead {
		return false
	}
	const far = 1 << 24
	seq := binary.LittleEndian.Uint64(buf[4:]) &^ removedBits
	time := int64(binary.LittleEndian.Uint64(buf[12:])) //nolint:gosec // as nats-server does
	return seq <= b.last+far && (b.all.from == 0 || time >= b.all.from && time-b.all.to < 1e18)
}

// parseRecord reads the record at the beginning of buf, if one is there.
func parseRecord(buf []byte, sum hash.Hash) (r record, ok bool) {
	if len(buf) < recordHead {
		return r, false
	}
	total := binary.LittleEndian.Uint32(buf)
	subject := int(binary.LittleEndian.Uint16(buf[20:]))
	r.length = int(total &^ headersBit)
	end := r.length - recordChecksum
	if r.length > len(buf) || r.length > recordMax || end < recordHead+subject {
		return r, false
	}
	sum.Reset()
	_, _ = sum.Write(buf[4:20])
	_, _ = sum.Write(buf[recordHead : recordHead+subject])
	body := recordHead + subject
	if total&headersBit != 0 {
		body += 4 // the length of the headers
	}
	if body > end {
		return r, false
	}
	_, _ = sum.Write(buf[body:end])
	if !bytes.Equal(sum.Sum(nil), buf[end:r.length]) {
		return r, false
	}
	seq := binary.LittleEndian.Uint64(buf[4:])
	r.seq, r.removed = seq&^removedBits, seq&removedBits != 0
	r.time = int64(binary.LittleEndian.Uint64(buf[12:])) //nolint:gosec // as nats-server does
	if total&headersBit != 0 {
		r.batch, r.place = batchOf(buf[body:end])
	}
	return r, true
}

// batchOf returns the id of an atomic batch, and the message's place in it, from
// the headers and what follows.
func batchOf(headers []byte) (id string, place uint64) {
	if end := bytes.Index(headers, []byte("\r\n\r\n")); end >= 0 {
		headers = headers[:end]
	}
	value := func(name string) string {
		_, value, _ := bytes.Cut(headers, []byte("\r\n"+name+":"))
		value, _, _ = bytes.Cut(value, []byte("\r\n"))
		return string(bytes.TrimSpace(value))
	}
	if id = value("Nats-Batch-Id"); id != "" {
		place, _ = strconv.ParseUint(value("Nats-Batch-Sequence"), 10, 64) // without one it proves nothing
	}
	return id, place
}

// add notes a record that can be read.
func (b *block) add(r record, where piece) {
	b.all.add(r)
	for i := range b.damage {
		d := &b.damage[i]
		d.after.add(r)
		if d.next == 0 && !r.removed {
			d.next = r.seq
		}
	}
	if !r.removed {
		b.first = cmp.Or(b.first, r.seq)
	}
	b.last = max(b.last, r.seq)
	if n := len(b.good); n > 0 && b.good[n-1].to == where.from {
		b.good[n-1].to = where.to
	} else {
		b.good = append(b.good, where)
	}
}
