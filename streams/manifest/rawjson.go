package manifest

import "encoding/json"

// RawJSON is a JSON value kept as it was written.
type RawJSON = json.RawMessage
