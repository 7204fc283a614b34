package manifest

import "strings"

// nearest returns the name that was probably meant by a wrong one: the same
// but for case, '-' and '_', or at most a third of its letters away. Empty if
// there is none.
func nearest(wrong string, names []string) string {
	best, least := "", 0
	for _, name := range names {
		if plain(name) == plain(wrong) {
			return name
		}
		d := distance(plain(wrong), plain(name))
		if d <= max(1, len(name)/3) && (best == "" || d < least) {
			best, least = name, d
		}
	}
	return best
}

func plain(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(s), "-", ""), "_", "")
}

// distance is the least number of letters to insert, delete, replace, or
// exchange with their neighbour, to get from a to b.
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	before, prev, row := make([]int, len(t)+1), make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(s); i++ {
		row[0] = i
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(t)]
}
