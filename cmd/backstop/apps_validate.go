package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"backstop/streams"
	"backstop/streams/manifest"
)

// manifestFile is a manifest as it was found in a file.
type manifestFile struct {
	// File is its name; "-" is standard input.
	File string `json:"file"`
	// AppID is empty when it can't be told.
	AppID string `json:"appId,omitempty"`
	Valid bool   `json:"valid"`
	// Problems is every mistake. Empty, and not nil, when valid.
	Problems manifest.Problems `json:"problems"`

	manifest manifest.Manifest
}

func newAppsValidate(a *app, asJSON *bool) *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE…",
		Short: "Check manifests without applying them; needs no NATS",
		Long: `Check manifests (- for standard input) and report every mistake with its place.
Private addresses count as mistakes unless BACKSTOP_ALLOWED_NETWORKS allows them.`,
		Example: "  backstop apps validate quiz.json shop.json\n  backstop apps validate --json - < quiz.json",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, files []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			read, err := a.readManifests(files, cfg.AllowedNetworks)
			if err != nil {
				return err
			}
			wrong := mistakes(read)
			if *asJSON {
				if err := a.printJSON(read); err != nil {
					return err
				}
				return wrong
			}
			a.printProblems(read)
			if wrong != nil {
				return wrong
			}
			_, err = fmt.Fprintf(a.out, "%s valid.\n", areOK(len(read)))
			return err
		},
	}
}

func areOK(n int) string {
	if n == 1 {
		return "The manifest is"
	}
	return fmt.Sprintf("All %d manifests are", n)
}

// readManifests reads and checks all files. A mistake in one is in its
// Problems; a file that can't be read at all is an error.
func (a *app) readManifests(files []string, allowed []netip.Prefix) ([]manifestFile, error) {
	if input := slices.Index(files, "-"); input >= 0 && slices.Contains(files[input+1:], "-") {
		return nil, usageErrorf("standard input can be read once")
	}
	read := make([]manifestFile, 0, len(files))
	from := make(map[string]string) // app → file
	for _, file := range files {
		data, err := a.readFile(file, manifest.MaxSize)
		if err != nil {
			return nil, err
		}
		one := manifestFile{File: file, Problems: manifest.Problems{}}
		m, err := manifest.Parse(data, manifest.Options{AllowedNetworks: allowed})
		var problems manifest.Problems
		switch {
		case errors.As(err, &problems):
			one.AppID, one.Problems = claimedApp(data), problems
		case err != nil:
			return nil, fmt.Errorf("%s: %w", file, err)
		default:
			one.AppID, one.Valid, one.manifest = m.AppID, true, m
		}
		if other, twice := from[one.AppID]; twice && one.Valid {
			one.Valid = false
			one.Problems = manifest.Problems{{Pointer: "/appId", Message: fmt.Sprintf("%q is in %s as well; give each app one manifest", one.AppID, other)}}
		} else if one.AppID != "" {
			from[one.AppID] = file
		}
		read = append(read, one)
	}
	return read, nil
}

// claimedApp returns the appId of a manifest that has mistakes, if it can be told.
func claimedApp(data []byte) string {
	var m struct {
		AppID string `json:"appId"`
	}
	if json.Unmarshal(data, &m) != nil || !streams.ValidName(m.AppID) {
		return ""
	}
	return m.AppID
}

// readFile reads a file, or standard input for "-", up to one byte beyond the
// limit, so that the reader can tell what is too large.
func (a *app) readFile(name string, limit int64) ([]byte, error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the caller's own file, by the caller's own word
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, limit+1))
}

// printProblems tells every mistake, one to a line, as compilers do.
func (a *app) printProblems(read []manifestFile) {
	for _, one := range read {
		for _, p := range one.Problems {
			a.notef("%s: %s", one.File, oneLine(p.String()))
		}
	}
}

// mistakes returns the error that sums up the problems, or nil for none.
func mistakes(read []manifestFile) error {
	problems, files := 0, 0
	for _, one := range read {
		if !one.Valid {
			files++
			problems += len(one.Problems)
		}
	}
	switch {
	case files == 0:
		return nil
	case len(read) == 1:
		return fmt.Errorf("the manifest has %s", plural(problems, "mistake"))
	default:
		return fmt.Errorf("%d of %d manifests have mistakes, %d in all", files, len(read), problems)
	}
}
