package health

import (
	"bytes"
	"context"
	"regexp"

	"backstop/dispatcher"
	"backstop/streams"
)

// Metrics looks whether the app shows metrics at the URL; "" stands for
// nowhere. MetricsUnknown says that it can't be told, for a fault on our side.
// It takes no longer than Timeout.
func Metrics(ctx context.Context, g Getter, url string) streams.MetricsState {
	if url == "" {
		return streams.MetricsMissing
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	a := g.Get(ctx, url, "text/plain;version=0.0.4, */*;q=0.1")
	switch {
	case a.Reason == dispatcher.ReasonLocal:
		return streams.MetricsUnknown
	case a.Err == nil && a.Status >= 200 && a.Status <= 299 && exposition(a.Body, a.Cut):
		return streams.MetricsPresent
	default:
		return streams.MetricsMissing
	}
}

// sample is a line with a value: name, or labels with a quoted name, the value,
// and perhaps a time and an exemplar. Nobody's numbers are read here: what is
// told apart is metrics from a web page.
var sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)?(\{.*\})?[ \t]+([-+]?[0-9.]\S*|[-+]?Inf|NaN)([ \t].*)?$`)

// announcement is a comment that means something.
var announcement = regexp.MustCompile(`^# ?((TYPE|HELP|UNIT)[ \t]|EOF$)`)

// exposition tells whether a body is in Prometheus's text format, or
// OpenMetrics'. Every line of it is a comment, empty, or a sample, and there is
// a sample at least, or a comment that announces one. Of a body that was cut,
// the last line may be half a one.
func exposition(body []byte, cut bool) bool {
	if cut {
		body = body[:bytes.LastIndexByte(body, '\n')+1]
	}
	found := false
	for line := range bytes.Lines(body) {
		switch line = bytes.TrimSpace(line); {
		case len(line) == 0:
		case announcement.Match(line), sample.Match(line):
			found = true
		case line[0] == '#':
		default:
			return false
		}
	}
	return found
}
