// Package ledger holds the proof that no acknowledged event is lost: a test
// that runs `backstop serve` as a child process, publishes to endpoints that
// behave in every way apps do, kills it at random, and compares what was
// published with what the receivers, a process of their own, have on record.
package ledger
