//go:build !faults

package killpoint

// Here does nothing in this build.
func Here(Point) {}

// Broken is false in this build.
func Broken(Mistake) bool { return false }
