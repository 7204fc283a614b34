package admin

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"backstop/streams"
)

// uiFuncs are what the templates write numbers, times and texts with.
var uiFuncs = template.FuncMap{
	"rate": rateText, "ms": msText, "whole": func(ms int64) string { return msText(float64(ms)) }, "count": countText, "bytes": bytesText,
	"time": timeOf, "plain": plain, "json": func(raw json.RawMessage) string { return readable(raw) },
	"share": share, "spark": sparkOf, "plural": plural, "gate": gateText, "words": words, "act": actionOf,
}

// rateText is a success rate as a person reads it. Rounded down, so that what
// is not all is never told as 100%.
func rateText(rate *float64) string {
	if rate == nil {
		return "–"
	}
	return trim(math.Floor(*rate*1000)/10, 1) + "%"
}

// msText is a duration in milliseconds with a unit that fits.
func msText(ms float64) string {
	switch {
	case ms < 10:
		return trim(ms, 1) + " ms"
	case ms < 1000:
		return trim(ms, 0) + " ms"
	case ms < 60_000:
		return trim(ms/1000, 2) + " s"
	default:
		return trim(ms/60_000, 1) + " min"
	}
}

// trim writes a number with so many decimals at most.
func trim(n float64, decimals int) string {
	text := strconv.FormatFloat(n, 'f', decimals, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// countText is a whole number of any type with commas: 12,345.
func countText(n any) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func bytesText(n int) string {
	if n < 1024 {
		return strconv.Itoa(n) + " B"
	}
	return trim(float64(n)/1024, 1) + " KiB"
}

func plural(n any, one, many string) string {
	if fmt.Sprint(n) == "1" {
		return "1 " + one
	}
	return countText(n) + " " + many
}

// share is how much of a whole a part is, in percent.
func share(part *float64, whole int64) string {
	if part == nil || whole <= 0 {
		return "–"
	}
	if percent := 100 * *part / float64(whole); percent >= 1 {
		return trim(percent, 0) + "%"
	}
	return "<1%"
}

// words writes a name such as "dead_lettered" as words.
func words(name any) string { return strings.ReplaceAll(fmt.Sprint(name), "_", " ") }

// gateText says in a few words how an endpoint's breaker is.
func gateText(g *streams.Gate) string {
	if g == nil {
		return "closed"
	}
	switch g.State {
	case streams.GateForced:
		return "opened by hand"
	case streams.GateHalfOpen:
		return "half-open, probing"
	default:
		return string(g.State)
	}
}

// action is a button that does something to an endpoint.
type action struct{ Act, Text, App, Capability string }

func actionOf(act, text string, e endpointRow) action { return action{act, text, e.App, e.Capability} }

// moment is a time for a <time> element: the text is for who has no script,
// which makes "12 s ago" of it.
type moment struct{ Machine, Text string }

func timeOf(t time.Time) moment {
	t = t.UTC()
	layout := "2 Jan 15:04:05 UTC"
	if time.Since(t).Abs() < 12*time.Hour {
		layout = "15:04:05 UTC"
	}
	return moment{t.Format(time.RFC3339), t.Format(layout)}
}

// plain makes characters visible that would hide or turn around what stands
// beside them. Everything that isn't ours goes through it; the template
// escapes it beside that.
func plain(text any) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t':
			return c
		case c == utf8.RuneError || unicode.Is(unicode.Cc, c) || unicode.Is(unicode.Cf, c) || c == '\u2028' || c == '\u2029':
			return '\uFFFD'
		default:
			return c
		}
	}, fmt.Sprint(text))
}

// mostReadable is the most bytes of a payload that the page shows.
const mostReadable = 256 << 10

// readable writes a payload for a person: JSON indented, other text as it is,
// and anything else as bytes.
func readable(payload []byte) string {
	cut := ""
	if len(payload) > mostReadable {
		cut = "\n… and " + bytesText(len(payload)-mostReadable) + " more; the API has all of it"
	}
	var indented bytes.Buffer
	switch {
	case len(payload) == 0:
		return "(empty)"
	case json.Indent(&indented, payload, "", "  ") == nil:
		payload = indented.Bytes()
	case !utf8.Valid(payload):
		return hex.Dump(payload[:min(len(payload), mostReadable/8)]) + cut
	}
	return plain(strings.ToValidUTF8(string(payload[:min(len(payload), mostReadable)]), "")) + cut
}
