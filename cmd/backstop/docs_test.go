package main

import (
	"os"
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
