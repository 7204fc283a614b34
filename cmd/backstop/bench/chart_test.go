package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestChartIsWellFormedAndShowsWhatBelongsToIt(t *testing.T) {
	c := Chart{Name: "memory", Title: "Memory & endpoints", XLabel: "endpoints", YLabel: "MiB", LogX: true}
	var b strings.Builder
	err := c.WriteSVG(&b, []Point{
		{Chart: "memory", Series: "resident <all>", X: 100, Y: 40},
		{Chart: "memory", Series: "resident <all>", X: 100_000, Y: 900},
		{Chart: "memory", Series: "resident <all>", X: 100, Y: 44},
		{Chart: "memory", Series: "resident <all>", X: 0, Y: 44}, // has no place on a logarithmic axis
		{Chart: "other", Series: "not this", X: 1, Y: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	svg := b.String()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
	}
	for _, want := range []string{"Memory &amp; endpoints", "resident &lt;all&gt;", ">100k<", ">100<", "prefers-color-scheme:dark"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %q in the picture", want)
		}
	}
	if strings.Contains(svg, "not this") || strings.Contains(svg, "NaN") {
		t.Error("it shows what doesn't belong there")
	}
}

func TestChartOfNothing(t *testing.T) {
	for _, c := range []Chart{{LogX: true, LogY: true}, {}} {
		var b strings.Builder
		if err := c.WriteSVG(&b, nil); err != nil || strings.Contains(b.String(), "NaN") {
			t.Errorf("%v: %s", err, b.String())
		}
	}
}

func TestTicks(t *testing.T) {
	tests := []struct {
		a    axis
		want []float64
	}{
		{newAxis([]float64{0, 100}, false, 0, 1), []float64{0, 20, 40, 60, 80, 100}},
		{newAxis([]float64{0, 7}, false, 0, 1), []float64{0, 2, 4, 6}},
		{newAxis([]float64{3, 300}, true, 0, 1), []float64{5, 10, 20, 50, 100, 200}},
	}
	for _, test := range tests {
		if got := test.a.ticks(); !slices.Equal(got, test.want) {
			t.Errorf("ticks from %v to %v: %v, want %v", test.a.low, test.a.high, got, test.want)
		}
	}
}
