// Package bucket follows and changes a JetStream key-value bucket in the ways
// that Backstop's buckets need and that the client library leaves to its user:
// a watch that never goes deaf, a listing that is whole or an error, and a
// compare-and-set that tries again.
package bucket
