package secrets

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestKeyFileIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secrets.key")
	made, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o, want 0600", info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text))); err != nil || len(raw) != 32 {
		t.Errorf("the file holds %d bytes, %v; want base64 of 32", len(raw), err)
	}
	loaded, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.Public().equal(made.Public()) {
		t.Error("the key changed")
	}
	if again, _ := os.ReadFile(path); string(again) != string(text) {
		t.Error("the file changed")
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d files in the directory, want the key alone", len(files))
	}
	other, err := LoadOrCreateKey(filepath.Join(dir, "other.key"))
	if err != nil {
		t.Fatal(err)
	}
	if other.Public().equal(made.Public()) {
		t.Error("two key files hold the same key")
	}
}

// The derivation is part of the format: a change would lose every secret.
func TestKeyDerivationIsStable(t *testing.T) {
	raw := make([]byte, keySize)
	for i := range raw {
		raw[i] = byte(i)
	}
	key, err := newKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	const want = "223c42b67b540d90"
	if got := key.Public().Fingerprint(); got != want {
		t.Errorf("public key %s, want %s", got, want)
	}
	const sealed = "J0sxAffO1RuUpJdOpYG0Su+r/WT8FxqrFe8R0tmDWXhdinWVQAcAAupAkpZJtH6zjhk/VyHOIAuk00r2tiQEtMyB99oNj/EDc0mwQYzsNjtMPPLp7es="
	ciphertext, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := key.open("quiz", ciphertext); err != nil || s.Reveal() != vector {
		t.Errorf("a secret that was sealed by an earlier version: %v", err)
	}
}

// makeKeyEnv makes the test binary a process that loads or makes a key file.
const makeKeyEnv = "SECRETS_TEST_MAKE_KEY"

func TestMain(m *testing.M) {
	if path := os.Getenv(makeKeyEnv); path != "" {
		key, err := LoadOrCreateKey(path)
		if err != nil {
			_, _ = os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		_, _ = os.Stdout.WriteString(key.Public().Fingerprint())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestProcessesThatMakeTheKeyAtOnceAgree(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "secrets.key")
	const processes = 8
	var keys [processes]string
	var wg sync.WaitGroup
	for i := range processes {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), exe)
			cmd.Env = append(os.Environ(), makeKeyEnv+"="+path)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("process %d: %v: %s", i, err, out)
			}
			keys[i] = string(out)
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] || k == "" {
			t.Fatalf("processes have different keys: %v", keys)
		}
	}
}

func TestKeyFileThatCantBeUsed(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(make([]byte, 32))
	file := func(text string, mode os.FileMode) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name   string
		make   func(t *testing.T, path string)
		want   string // "" when it is fine
		reason string
	}{
		{"as made", file(good+"\n", 0o600), "", "0600"},
		{"read-only", file(good, 0o400), "", "a mounted secret"},
		{"group may read", file(good, 0o640), "chmod 600", "the group"},
		{"others may read", file(good, 0o604), "chmod 600", "everybody"},
		{"others may write", file(good, 0o602), "chmod 600", "everybody could change it"},
		{"empty", file("", 0o600), "base64 of 32 bytes", "a disk that was full"},
		{"too short", file(base64.StdEncoding.EncodeToString(make([]byte, 31)), 0o600), "base64 of 32 bytes", "cut"},
		{"too long", file(base64.StdEncoding.EncodeToString(make([]byte, 33)), 0o600), "base64 of 32 bytes", "another kind of key"},
		{"raw bytes", file(strings.Repeat("\x80", 32), 0o600), "base64 of 32 bytes", "not base64"},
		{"huge", file(good+strings.Repeat("\n", 10_000), 0o600), "base64 of 32 bytes", "not this format"},
		{"directory", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is a directory", "a wrong setting"},
		{"named pipe", func(t *testing.T, path string) {
			t.Helper()
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file", "would wait for ever"},
		{"link to nowhere", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Symlink(path+".missing", path); err != nil {
				t.Fatal(err)
			}
		}, "no such file", "a volume that isn't mounted must not become a new key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secrets.key")
			tt.make(t, path)
			_, err := LoadOrCreateKey(path)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v (%s)", err, tt.reason)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path)):
				t.Errorf("error %v, want one with %q and the path (%s)", err, tt.want, tt.reason)
			}
		})
	}
	if _, err := LoadOrCreateKey(filepath.Join(t.TempDir(), "missing", "secrets.key")); err == nil || !strings.Contains(err.Error(), "directory must exist") {
		t.Errorf("no directory: %v", err)
	}
}
