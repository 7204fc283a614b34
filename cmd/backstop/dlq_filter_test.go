package main

import (
	"strings"
	"testing"
	"time"

	"backstop/cmd/backstop/ops"
)

// A criterion that is wrong is told by the name of its flag.
func TestFilterNamesTheFlag(t *testing.T) {
	f := filterOptions{ops.Criteria{Since: "soon"}}
	if _, err := f.filter(time.Now(), nil); exitCode(err) != exitUsage || !strings.HasPrefix(err.Error(), "--since ") {
		t.Errorf("got %v", err)
	}
}

func TestPerSecond(t *testing.T) {
	for in, want := range map[string]float64{"": 0, "50/s": 50, "50": 50, "0.5/s": 0.5} {
		if got, err := perSecond(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"0/s", "-1/s", "fast", "50/m", "NaN/s", "Inf", "/s"} {
		if _, err := perSecond(in); exitCode(err) != exitUsage {
			t.Errorf("%q: got %v, want wrong usage", in, err)
		}
	}
}
