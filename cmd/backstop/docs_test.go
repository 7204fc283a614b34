package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every setting is in the operators' guide, with its default.
func TestSettingsAreDocumented(t *testing.T) {
	guide, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings() {
		row := "\n| `" + s.name + "` | "
		if s.value != "" {
			row += "`" + s.value + "`"
		}
		if !strings.Contains(string(guide), row+" |") {
			t.Errorf("docs/operations.md has no row for %s with the default %q", s.name, s.value)
		}
	}
}

// Every proof that SECURITY.md names is there.
func TestSecurityClaimsNameTheirTests(t *testing.T) {
	text, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	claims := regexp.MustCompile("`((Test|Fuzz)[A-Za-z0-9]+)`").FindAllSubmatch(text, -1)
	if len(claims) < 30 {
		t.Fatalf("only %d proofs are named", len(claims))
	}
	var tests strings.Builder
	err = filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		tests.Write(source)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, claim := range claims {
		if !strings.Contains(tests.String(), "\nfunc "+string(claim[1])+"(") {
			t.Errorf("SECURITY.md names %s, which is no test", claim[1])
		}
	}
}
