package admin

import (
	"encoding/json"
	"net/http"
)

// problem is an error answer as RFC 9457 has it. Type is left out, which means
// "about:blank": Title is the status's own, and Code tells programs the rest.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	// Code is stable: programs may rely on it.
	Code string `json:"code"`
	// Detail is for a person, and says what would be right.
	Detail string `json:"detail"`
}

// refuse answers with a problem.
func refuse(w http.ResponseWriter, status int, code, detail string) {
	answer(w, status, "application/problem+json", problem{Status: status, Title: http.StatusText(status), Code: code, Detail: detail})
}

// answer writes a JSON answer that nobody may keep.
func answer(w http.ResponseWriter, status int, contentType string, body any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) //nolint:errchkjson // structs and maps of texts; the peer has gone if this fails
}
