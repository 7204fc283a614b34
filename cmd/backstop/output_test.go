package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 12 * time.Millisecond: "12ms", 61 * time.Second: "1m1s", 59*time.Minute + 59*time.Second: "59m59s",
		5*time.Hour + 10*time.Minute + 3*time.Second: "5h10m", 47 * time.Hour: "47h0m", 72 * time.Hour: "3d",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%d) = %s, want %s", d, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	tests := []struct{ in, want, why string }{
		{"short", "short", "fits"},
		{"exactly 10", "exactly 10", "fits exactly"},
		{"eleven char", "eleven ch…", "cut, with a sign of it"},
		{"ünïcödé über", "ünïcödé ü…", "by characters, not bytes"},
		{"a\x1b[31mred\n", "a [31mred ", "no commands to the terminal"},
	}
	for _, test := range tests {
		if got := clip(test.in, 10); got != test.want {
			t.Errorf("%s: got %q, want %q", test.why, got, test.want)
		}
	}
}

func TestPrintError(t *testing.T) {
	tests := []struct {
		err  error
		want string
		code int
		why  string
	}{
		{nil, "", exitOK, "success says nothing"},
		{errors.New("it broke"), "backstop: it broke\n", exitFailed, "one line"},
		{fmt.Errorf("%s", "first\n  second\r\n"), "backstop: first; second\n", exitFailed, "still one line"},
		{fmt.Errorf("outer: %w", hint(errors.New("inner"), "again")), "backstop: outer: inner\nTry: again\n", exitFailed, "with the next step"},
		{hint(hint(errors.New("x"), "near"), "far"), "backstop: x\nTry: near\n", exitFailed, "the nearest hint wins"},
		{hint(usageErrorf("bad"), "--help"), "backstop: bad\nTry: --help\n", exitUsage, "wrong usage"},
	}
	for _, test := range tests {
		var out bytes.Buffer
		printError(&out, test.err)
		if out.String() != test.want || exitCode(test.err) != test.code {
			t.Errorf("%s: got %q, exit %d; want %q, exit %d", test.why, out.String(), exitCode(test.err), test.want, test.code)
		}
	}
}

func TestConfirmWithoutTerminal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(file, []byte("y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	redirected, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer redirected.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, a := range map[string]*app{
		"pipe": {in: strings.NewReader("y\n")}, "file": {in: redirected}, "null": {in: null},
	} {
		var said bytes.Buffer
		a.err = &said
		if err := a.confirm("Really?"); err == nil || !strings.Contains(err.Error(), "not a terminal") {
			t.Errorf("%s: nobody can have said yes, and got %v", name, err)
		}
	}
}
