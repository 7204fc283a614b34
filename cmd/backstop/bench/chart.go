package bench

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Point is one measured point of a curve.
type Point struct {
	Chart  string  `json:"chart"`
	Series string  `json:"series"`
	X      float64 `json:"x"`
	Y      float64 `json:"y"`
	// Load is the machine's load average of a minute when it was measured.
	Load float64 `json:"load"`
}

// Chart is how points are shown: lines over a horizontal axis, one for each
// series. Several points of a series with one X are shown as their median,
// with a bar from the lowest to the highest.
type Chart struct {
	Name, Title, XLabel, YLabel string
	// LogX and LogY make an axis logarithmic. What is not positive isn't shown then.
	LogX, LogY bool
}

// The picture's measures, in pixels.
const (
	chartWidth, chartHeight = 640, 360
	plotLeft, plotRight     = 70, 470 // series' names are right of it
	plotTop, plotBottom     = 44, 304
	plotTicks               = 5
)

// chartStyle is readable on a light and on a dark page.
const chartStyle = `
text{font:12px system-ui,sans-serif;fill:#333}
.title{font-size:14px;font-weight:600}
.grid{stroke:#8884;stroke-width:1}
.s0{stroke:#1f6fd6;fill:#1f6fd6}.s1{stroke:#d9622b;fill:#d9622b}.s2{stroke:#2a9d58;fill:#2a9d58}.s3{stroke:#9a55c7;fill:#9a55c7}
.line{fill:none;stroke-width:2}
@media (prefers-color-scheme:dark){text{fill:#ddd}
.s0{stroke:#6aa9ff;fill:#6aa9ff}.s1{stroke:#ff9a66;fill:#ff9a66}.s2{stroke:#5fd08a;fill:#5fd08a}.s3{stroke:#c493ea;fill:#c493ea}
.line{fill:none}}
`

// seriesColours is how many series can be told apart.
const seriesColours = 4

// spread is what was measured for one X.
type spread struct{ x, low, middle, high float64 }

// WriteSVG draws the points that belong to the chart.
func (c Chart) WriteSVG(w io.Writer, points []Point) error {
	names, series := c.series(points)
	var xs, ys []float64
	for _, s := range series {
		for _, p := range s {
			xs, ys = append(xs, p.x), append(ys, p.low, p.high)
		}
	}
	x := newAxis(xs, c.LogX, plotLeft, plotRight)
	if !c.LogY {
		ys = append(ys, 0)
	}
	y := newAxis(ys, c.LogY, plotBottom, plotTop)

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img"><title>%s</title><style>%s</style>`+"\n",
		chartWidth, chartHeight, chartWidth, chartHeight, escaped(c.Title), chartStyle)
	text := func(class, anchor string, x, y float64, s string) {
		fmt.Fprintf(&b, `<text class="%s" text-anchor="%s" x="%.1f" y="%.1f">%s</text>`+"\n", class, anchor, x, y, escaped(s))
	}
	text("title", "start", 12, 22, c.Title)
	for _, t := range y.ticks() {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`+"\n", plotLeft, plotRight, y.at(t), y.at(t))
		text("", "end", plotLeft-8, y.at(t)+4, short(t))
	}
	for _, t := range x.marks(xs) {
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`+"\n", x.at(t), x.at(t), plotTop, plotBottom)
		text("", "middle", x.at(t), plotBottom+18, short(t))
	}
	text("", "middle", (plotLeft+plotRight)/2, plotBottom+42, c.XLabel)
	fmt.Fprintf(&b, `<text text-anchor="middle" transform="translate(16 %d) rotate(-90)">%s</text>`+"\n", (plotTop+plotBottom)/2, escaped(c.YLabel))
	for i, s := range series {
		class := "s" + strconv.Itoa(i%seriesColours)
		var line strings.Builder
		for _, p := range s {
			fmt.Fprintf(&line, "%.1f,%.1f ", x.at(p.x), y.at(p.middle))
			fmt.Fprintf(&b, `<circle class="%s" cx="%.1f" cy="%.1f" r="3"/>`+"\n", class, x.at(p.x), y.at(p.middle))
			if p.high > p.low {
				fmt.Fprintf(&b, `<line class="%s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", class, x.at(p.x), x.at(p.x), y.at(p.low), y.at(p.high))
			}
		}
		fmt.Fprintf(&b, `<polyline class="line %s" points="%s"/>`+"\n", class, strings.TrimSpace(line.String()))
		fmt.Fprintf(&b, `<circle class="%s" cx="%d" cy="%d" r="4"/>`+"\n", class, plotRight+16, plotTop+8+20*i)
		text("", "start", plotRight+26, float64(plotTop+12+20*i), names[i])
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// series puts the chart's points together: by name in the order of their
// coming, each sorted by X.
func (c Chart) series(points []Point) (names []string, series [][]spread) {
	values := map[string]map[float64][]float64{}
	for _, p := range points {
		if p.Chart != c.Name || (c.LogX && p.X <= 0) || (c.LogY && p.Y <= 0) {
			continue
		}
		if values[p.Series] == nil {
			values[p.Series] = map[float64][]float64{}
			names = append(names, p.Series)
		}
		values[p.Series][p.X] = append(values[p.Series][p.X], p.Y)
	}
	for _, name := range names {
		var s []spread
		for x, ys := range values[name] {
			slices.Sort(ys)
			s = append(s, spread{x: x, low: ys[0], middle: (ys[(len(ys)-1)/2] + ys[len(ys)/2]) / 2, high: ys[len(ys)-1]})
		}
		slices.SortFunc(s, func(a, b spread) int { return cmp.Compare(a.x, b.x) })
		series = append(series, s)
	}
	return names, series
}

// axis places values between two pixels.
type axis struct {
	low, high float64
	log       bool
	from, to  float64
}

func newAxis(values []float64, log bool, from, to float64) axis {
	a := axis{low: 0, high: 1, log: log, from: from, to: to}
	if log {
		a.low, a.high = 1, 10
	}
	if len(values) > 0 {
		a.low, a.high = slices.Min(values), slices.Max(values)
	}
	if a.low == a.high {
		a.high = max(2*a.low, a.low+1)
	}
	return a
}

func (a axis) at(v float64) float64 {
	scale := func(v float64) float64 { return v }
	if a.log {
		scale = math.Log
	}
	return a.from + (scale(v)-scale(a.low))/(scale(a.high)-scale(a.low))*(a.to-a.from)
}

// ticks returns round values within the axis.
func (a axis) ticks() []float64 {
	var ticks []float64
	if a.log {
		for decade := math.Pow(10, math.Floor(math.Log10(a.low))); decade <= a.high; decade *= 10 {
			for _, m := range []float64{1, 2, 5} {
				if t := m * decade; t >= a.low && t <= a.high {
					ticks = append(ticks, t)
				}
			}
		}
		return ticks
	}
	step := math.Pow(10, math.Floor(math.Log10((a.high-a.low)/plotTicks)))
	for _, m := range []float64{1, 2, 5, 10} {
		if (a.high-a.low)/(m*step) <= plotTicks {
			step *= m
			break
		}
	}
	for t := math.Ceil(a.low/step) * step; t <= a.high; t += step {
		ticks = append(ticks, t)
	}
	return ticks
}

// marks returns the values themselves while there are few, and ticks otherwise.
func (a axis) marks(values []float64) []float64 {
	values = slices.Clone(values)
	slices.Sort(values)
	if values = slices.Compact(values); len(values) <= plotTicks+1 {
		return values
	}
	return a.ticks()
}

// short writes a number as people do on an axis.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + "M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

func escaped(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
