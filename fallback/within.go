package fallback

import "time"

// within runs f, and returns what it returned, or false when that takes longer
// than d. f goes on then, in a goroutine that ends when f does: somebody waits
// for an answer here, and nobody for f, which was told its deadline.
func within[T any](d time.Duration, f func() T) (T, bool) {
	done := make(chan T, 1)
	go func() { done <- f() }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case v := <-done:
		return v, true
	case <-timer.C:
	}
	select {
	case v := <-done: // in the same moment
		return v, true
	default:
		var none T
		return none, false
	}
}
