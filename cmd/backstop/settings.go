package main

import (
	"fmt"
	"reflect"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"backstop/streams/manifest"
)

// newSettingsTopic is the text of `backstop help settings`.
func newSettingsTopic(*app) *cobra.Command {
	return &cobra.Command{
		Use:   "settings",
		Short: "The settings, all in the environment",
		Long:  settingsHelp(),
	}
}

func settingsHelp() string {
	var b strings.Builder
	b.WriteString("Settings are environment variables. One that can't be right stops the command and\n" +
		"is named. A manifest's own value wins over the settings for webhooks.\n\n")
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tDEFAULT\tMEANING")
	for _, s := range settings() {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", s.name, dash(s.value), s.meaning)
	}
	fmt.Fprintf(tw, "%s<CAPABILITY>\t%s\t%s\n", timeoutPrefix, "-", "timeout of one capability, as in WEBHOOK_TIMEOUT_QUIZ_ANSWER=2000 (ms)")
	// A strings.Builder takes everything.
	_ = tw.Flush()
	return b.String()
}

// setting is one line of the help, taken from a field of Config.
type setting struct{ name, value, meaning string }

func settings() []setting {
	defaults := reflect.ValueOf(defaultConfig())
	var all []setting
	for i := range defaults.NumField() {
		tag := defaults.Type().Field(i).Tag
		if name := tag.Get("envconfig"); name != "" {
			all = append(all, setting{name, fmt.Sprint(defaults.Field(i).Interface()), tag.Get("desc")})
		}
	}
	return all
}

// unknownSettings returns a warning for each variable that looks like one of
// our settings and is none: a mistyped setting would otherwise be a default in
// silence. BACKSTOP_ is ours; under WEBHOOK_ and CIRCUIT_BREAKER_ somebody else
// may have variables too, so that only a slip of one of ours counts.
func unknownSettings(environ []string) []string {
	known := make(map[string]bool)
	for _, s := range settings() {
		known[s.name] = true
	}
	var warnings []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		own := strings.HasPrefix(name, "BACKSTOP_")
		shared := strings.HasPrefix(name, "WEBHOOK_") || strings.HasPrefix(name, "CIRCUIT_BREAKER_")
		if known[name] || !own && !shared {
			continue
		}
		near := nearest(name, known)
		if capability, ok := strings.CutPrefix(name, timeoutPrefix); ok {
			if capability == strings.ToUpper(capability) {
				continue
			}
			near = timeoutPrefix + manifest.EnvName(capability)
		}
		switch {
		case near != "":
			warnings = append(warnings, name+" is not a setting; did you mean "+near+"?")
		case own:
			warnings = append(warnings, name+" is not a setting")
		}
	}
	return warnings
}

// nearest returns the known name with the fewest edits from name, if they are
// few enough to be a slip.
func nearest(name string, known map[string]bool) string {
	best, fewest := "", 4
	for candidate := range known {
		n := edits(name, candidate)
		if n < fewest || n == fewest && best != "" && candidate < best {
			best, fewest = candidate, n
		}
	}
	return best
}

// edits is the Levenshtein distance of two names in ASCII.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
