package manifest

import (
	_ "embed"
	"slices"
)

//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of a manifest, for editors
// and other languages. Parse is stricter where its comment says so.
func Schema() []byte { return slices.Clone(schema) }
