// Package manifest is what apps declare about themselves: the types, their
// JSON Schema and validation, the catalogue of built-in capabilities, and the
// bucket that holds manifests.
package manifest
