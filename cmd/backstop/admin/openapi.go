package admin

import (
	_ "embed"
	"net/http"
)

// openAPI describes the API: OpenAPI 3.1.
//
//go:embed openapi.json
var openAPI []byte

func serveOpenAPI(w http.ResponseWriter, _ *request) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI) // the peer has gone if this fails
	return nil
}
