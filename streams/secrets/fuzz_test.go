package secrets

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A record that was tampered with is refused or rotated, and never grows.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`[{"id":"a","sealed":"AAAA","created":"2026-11-24T05:05:32Z"}]`))
	f.Add([]byte(`[{},{},{},{},{},{}]`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"id":1}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		r, err := parseRecord(value)
		if err != nil {
			return
		}
		now := time.Unix(1_700_000_000, 0)
		next := r.rotate(newEntry([]byte("x"), now), now.Add(Grace))
		if len(next) < 1 || len(next) > maxActive {
			t.Errorf("%d secrets after a rotation", len(next))
		}
	})
}

// A public key of any content is refused, or one that seals.
func FuzzPublicKey(f *testing.F) {
	f.Add([]byte(`{"suite":"` + suite + `","public":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`))
	f.Add([]byte(`{"suite":"` + suite + `","public":""}`))
	f.Add([]byte(`{"suite":"none"}`))
	f.Add([]byte(`[]`))
	secret := Generate()
	f.Fuzz(func(t *testing.T, value []byte) {
		key, _, err := parsePublic(value)
		if err != nil {
			return
		}
		_ = key.Fingerprint()
		// A key of low order is refused at the latest here.
		_, _ = key.seal("quiz", secret)
	})
}

// A key file of any content is refused, and left as it is, or one that works.
func FuzzKeyFile(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("not a key\n"))
	f.Add(make([]byte, 32))
	f.Add([]byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "secrets.key")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := LoadOrCreateKey(path)
		if after, readErr := os.ReadFile(path); readErr != nil || string(after) != string(content) {
			t.Errorf("the file was changed: %v", readErr)
		}
		if err != nil {
			return
		}
		secret := Generate()
		sealed, err := k.Public().seal("quiz", secret)
		if err != nil {
			t.Fatal(err)
		}
		if opened, err := k.open("quiz", sealed); err != nil || !opened.Equal(secret) {
			t.Errorf("what it seals it can't open: %v", err)
		}
	})
}
