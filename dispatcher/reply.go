package dispatcher

import (
	"bytes"
	"encoding/json"

	"backstop/streams"
)

// reply is an app's agreed answer: {"success":true,"data":…} or
// {"success":false,"error":{…}}.
type reply struct {
	success bool
	data    json.RawMessage // nil when there was none
	err     *AppError       // set when success is false
}

// What an app's "no" is called when it gives no code or no message.
const (
	unnamedCode    = "app_error"
	unnamedMessage = "the app gave no reason"
)

// parseReply reads an agreed answer. ok is false for everything else, which is
// whatever isn't one JSON object with a boolean "success". Nothing of the
// reply points into body.
func parseReply(body []byte) (r reply, ok bool) {
	if !isObject(body) || !streams.ValidJSON(body) {
		return reply{}, false
	}
	switch string(member(body, "success")) {
	case "true":
		return reply{success: true, data: bytes.Clone(member(body, "data"))}, true
	case "false":
		return reply{err: parseAppError(member(body, "error"))}, true
	default:
		return reply{}, false
	}
}

// parseAppError reads an app's "error" as well as it can be read: that the app
// said no is certain, however it words it.
func parseAppError(raw []byte) *AppError {
	e := &AppError{}
	if isObject(raw) {
		e.Code, e.Message = text(member(raw, "code")), text(member(raw, "message"))
		e.Retryable = string(member(raw, "retryable")) == "true"
	} else {
		e.Message = text(raw) // "error": "words"
	}
	if e.Code == "" {
		e.Code = unnamedCode
	}
	if e.Message == "" {
		e.Message = unnamedMessage
	}
	return e
}

// text returns a JSON string's content, and any other value as it is written;
// a code that is a number stays readable.
func text(raw []byte) string {
	var s string
	if len(raw) == 0 || string(raw) == "null" || json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}
