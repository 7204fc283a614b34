package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/logtest"
)

func TestStoreCreate(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	if has, err := b.store.Has(t.Context(), "quiz"); has || err != nil {
		t.Errorf("Has of nothing: %v, %v", has, err)
	}
	var wg sync.WaitGroup
	errs, made := make([]error, 8), make([]Secret, 8)
	for i := range errs {
		made[i] = Generate()
		wg.Go(func() { errs[i] = b.store.Create(t.Context(), "quiz", made[i]) })
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case !errors.Is(err, ErrExists):
			t.Errorf("creator %d: %v, want one success and ErrExists", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody created it")
	}
	s, err := b.key.open("quiz", recordOf(t, b.kv, "quiz")[0].Sealed)
	if err != nil || !s.Equal(made[winner]) {
		t.Errorf("the app's secret isn't that of the one who was told so: %v", err)
	}
	if has, err := b.store.Has(t.Context(), "quiz"); !has || err != nil {
		t.Errorf("Has: %v, %v", has, err)
	}
}

func TestStoreRotate(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b.store.now = func() time.Time { return now }
	var made []Secret
	rotate := func(grace time.Duration) {
		t.Helper()
		s := Generate()
		if err := b.store.Rotate(t.Context(), "quiz", s, grace); err != nil {
			t.Fatal(err)
		}
		made = append(made, s)
	}
	// expect compares the record with indexes into made, newest first, and the
	// time that each has left.
	expect := func(reason string, want map[int]time.Duration) {
		t.Helper()
		r := recordOf(t, b.kv, "quiz")
		if len(r) != len(want) {
			t.Errorf("%s: %d secrets, want %d", reason, len(r), len(want))
		}
		last := len(made)
		for _, e := range r {
			s, err := b.key.open("quiz", e.Sealed)
			if err != nil {
				t.Fatal(err)
			}
			i := 0
			for !made[i].Equal(s) {
				i++
			}
			if i >= last {
				t.Errorf("%s: not newest first", reason)
			}
			last = i
			left, ok := want[i]
			if got := e.Expires.Sub(now); !ok || e.Expires.IsZero() != (left == 0) || left != 0 && got != left {
				t.Errorf("%s: secret %d has %v left, want %v (%v)", reason, i, got, left, ok)
			}
		}
	}
	const h = time.Hour
	rotate(24 * h)
	expect("the first", map[int]time.Duration{0: 0})
	rotate(24 * h)
	expect("the first expires", map[int]time.Duration{0: 24 * h, 1: 0})
	now = now.Add(h)
	rotate(24 * h)
	expect("the first isn't prolonged", map[int]time.Duration{0: 23 * h, 1: 24 * h, 2: 0})
	rotate(2 * h)
	expect("a short grace cuts what is left to all", map[int]time.Duration{0: 2 * h, 1: 2 * h, 2: 2 * h, 3: 0})
	rotate(24 * h)
	expect("the oldest is dropped", map[int]time.Duration{1: 2 * h, 2: 2 * h, 3: 24 * h, 4: 0})
	now = now.Add(3 * h)
	rotate(24 * h)
	expect("what has expired is dropped", map[int]time.Duration{3: 21 * h, 4: 24 * h, 5: 0})
	rotate(0)
	expect("without grace", map[int]time.Duration{6: 0})
	if err := b.store.Rotate(t.Context(), "quiz", Generate(), -1); err == nil {
		t.Error("a negative grace is accepted")
	}
	if err := b.store.Set(t.Context(), "quiz", made[0]); err != nil {
		t.Fatal(err)
	}
	expect("set alone", map[int]time.Duration{0: 0})
}

func TestRotationsAtOnceAllTakeEffect(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	var wg sync.WaitGroup
	for range maxActive {
		wg.Go(func() {
			if err := b.store.Rotate(t.Context(), "quiz", Generate(), time.Hour); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(recordOf(t, b.kv, "quiz")); n != maxActive {
		t.Errorf("%d secrets, want %d: a rotation was overwritten", n, maxActive)
	}
}

func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	s := Generate()
	if err := b.store.Set(t.Context(), PublicKeyName, s); err == nil {
		t.Error("an app could take the public key's place")
	}
	if err := b.store.Set(t.Context(), "quiz", Secret{}); err == nil {
		t.Error("no secret is set as one")
	}
	if err := b.store.Delete(t.Context(), "quiz"); !errors.Is(err, ErrNone) {
		t.Errorf("Delete of nothing: %v", err)
	}
	if _, err := b.kv.PutString(t.Context(), "broken", "garbage"); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Rotate(t.Context(), "broken", s, 0); err == nil {
		t.Error("a record that can't be read is overwritten")
	}
	if err := b.kv.Delete(t.Context(), PublicKeyName); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Set(t.Context(), "quiz", s); !errors.Is(err, ErrNoPublicKey) {
		t.Errorf("no public key: %v", err)
	}
}

// No secret may appear on the wire or on disk, whatever form it takes. The
// control is a message that does appear in all the places that are searched.
func TestNoSecretTravelsOrRestsInClear(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	nc := b.nats.Conn()
	var mu sync.Mutex
	var wire bytes.Buffer
	sub, err := nc.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		wire.WriteString(m.Subject + " " + m.Reply + " ")
		for k, v := range m.Header {
			wire.WriteString(k + strings.Join(v, " "))
		}
		wire.Write(m.Data)
		wire.WriteByte('\n')
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	k := b.keyring(b.key, &logtest.Buffer{})
	canaries := []Secret{Generate(), Generate(), Generate()}
	if err := b.store.Create(t.Context(), "quiz", canaries[0]); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Set(t.Context(), "quiz", canaries[1]); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Rotate(t.Context(), "quiz", canaries[2], time.Hour); err != nil {
		t.Fatal(err)
	}
	b.eventually("the keyring has them", b.has(k, "quiz", canaries[2], canaries[1]))

	control := Generate()
	plain, err := b.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "plain"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.PutString(t.Context(), "control", control.Reveal()); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	b.eventually("the control was captured", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return bytes.Contains(wire.Bytes(), []byte(control.Reveal()))
	})
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	b.nats.Stop() // everything is in the files then
	disk := readAll(t, b.nats.DataDir())

	mu.Lock()
	defer mu.Unlock()
	for where, data := range map[string][]byte{"wire": wire.Bytes(), "disk": disk} {
		if !bytes.Contains(data, []byte(control.Reveal())) {
			t.Errorf("%s: the control isn't found, so the search proves nothing", where)
		}
		if !bytes.Contains(data, []byte("$KV.secrets.quiz")) {
			t.Errorf("%s: the sealed secret isn't there either", where)
		}
		for i, s := range canaries {
			for form, text := range forms(t, s) {
				if bytes.Contains(data, text) {
					t.Errorf("%s: secret %d appears as %s", where, i, form)
				}
			}
		}
	}
}

// forms are the ways in which a secret could be written.
func forms(t *testing.T, s Secret) map[string][]byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s.Reveal(), Prefix))
	if err != nil {
		t.Fatal(err)
	}
	body := strings.TrimRight(strings.TrimPrefix(s.Reveal(), Prefix), "=")
	return map[string][]byte{
		"text":               []byte(body[:20]),
		"bytes":              raw,
		"hexadecimal":        []byte(hex.EncodeToString(raw)),
		"base64 of the text": []byte(base64.RawStdEncoding.EncodeToString([]byte(s.Reveal()))),
		"url alphabet":       []byte(base64.RawURLEncoding.EncodeToString(raw)),
	}
}

func readAll(t *testing.T, dir string) []byte {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.Bytes()
}
