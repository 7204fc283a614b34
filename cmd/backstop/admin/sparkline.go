package admin

import (
	"fmt"
	"strings"

	"backstop/consumers/rollup"
)

// sparkMinutes is how many minutes a sparkline shows.
const sparkMinutes = 60

// spark is a sparkline: a bar for each minute, successes upward and failures
// downward from one line, so that colours aren't needed to tell them apart.
type spark struct {
	// Good and Bad are paths in a box of sparkWidth by sparkHeight.
	Good, Bad string
	// Label says the same in words.
	Label string
}

// The box, in which the line is at sparkLine.
const (
	sparkStep   = 2 // width of a minute
	sparkWidth  = sparkMinutes * sparkStep
	sparkHeight = 28
	sparkLine   = 20
)

// sparkOf draws minutes, all on the scale of the busiest.
func sparkOf(points []rollup.Point) spark {
	var most, attempts, failed uint64
	for _, p := range points {
		most = max(most, p.Attempts)
		attempts += p.Attempts
		failed += p.Attempts - p.Succeeded
	}
	s := spark{Label: fmt.Sprintf("Last %d minutes: %s, %s failed", sparkMinutes, plural(attempts, "attempt", "attempts"), countText(failed))}
	if most == 0 {
		s.Label = fmt.Sprintf("No attempts within %d minutes", sparkMinutes)
		return s
	}
	s.Label += fmt.Sprintf("; at most %s a minute", countText(most))
	var good, bad strings.Builder
	for i, p := range points {
		bar(&good, i, -height(p.Succeeded, most, sparkLine))
		bar(&bad, i, height(p.Attempts-p.Succeeded, most, sparkHeight-sparkLine))
	}
	s.Good, s.Bad = good.String(), bad.String()
	return s
}

// height is how high a bar is; one that isn't nothing can be seen.
func height(n, most uint64, room float64) float64 {
	if n == 0 {
		return 0
	}
	return max(float64(n)/float64(most)*room, 1.5)
}

// bar adds the bar of a minute, upward when its height is negative.
func bar(path *strings.Builder, minute int, height float64) {
	if height != 0 {
		fmt.Fprintf(path, "M%d %dv%.1fh1.6v%.1fz", minute*sparkStep, sparkLine, height, -height)
	}
}
