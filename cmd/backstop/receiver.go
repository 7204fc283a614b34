package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"backstop/dispatcher/sign"
)

// receiver is the app that `listen` plays.
type receiver struct {
	app     *app
	options listenOptions
	secrets []string

	mu sync.Mutex // one webhook is printed at a time
}

// received is a webhook as JSON, one to a line.
type received struct {
	Time       time.Time `json:"time"`
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	ID         string    `json:"id"`
	App        string    `json:"app"`
	Capability string    `json:"capability"`
	Attempt    int       `json:"attempt"`
	// Signature is "ok", "unchecked", or what is wrong with it.
	Signature string `json:"signature"`
	// Status is what was answered.
	Status int    `json:"status"`
	Body   string `json:"body"`
}

// Signatures that are not wrong.
const (
	signatureOK        = "ok"
	signatureUnchecked = "unchecked"
)

// ServeHTTP implements http.Handler.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxWebhookBody))
	if err != nil {
		status := http.StatusBadRequest
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			status = http.StatusRequestEntityTooLarge
		}
		answer(w, status, err.Error())
		return
	}
	attempt, _ := strconv.Atoi(req.Header.Get("X-Platform-Attempt")) // 0: not from a pipeline
	got := received{
		Time: time.Now().UTC(), Method: req.Method, Path: req.URL.Path,
		ID: req.Header.Get("X-Request-ID"), App: req.Header.Get("X-Platform-App"), Capability: req.Header.Get("X-Platform-Capability"),
		Attempt: attempt, Signature: r.verify(req.Header, body), Status: r.options.status, Body: string(body),
	}
	if got.Signature != signatureOK && got.Signature != signatureUnchecked {
		got.Status = http.StatusUnauthorized
	}
	r.print(got)
	if got.Status != http.StatusUnauthorized || r.options.status == http.StatusUnauthorized {
		select {
		case <-req.Context().Done():
			// Returning would answer 200, and the event would count as delivered.
			panic(http.ErrAbortHandler)
		case <-time.After(r.options.delay):
		}
	}
	answer(w, got.Status, "signature "+got.Signature)
}

func (r *receiver) verify(header http.Header, body []byte) string {
	if len(r.secrets) == 0 {
		return signatureUnchecked
	}
	if err := sign.Verify(header, body, time.Now(), r.secrets...); err != nil {
		return err.Error()
	}
	return signatureOK
}

func (r *receiver) print(got received) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.options.json {
		enc := json.NewEncoder(r.app.out)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(got); err != nil {
			r.app.warnf("%v", err) // a closed pipe is no reason to fail a webhook
		}
		return
	}
	fmt.Fprintf(r.app.out, "%s  %s %s  %s for %s, attempt %d, id %s, signature %s, answered %d\n%s\n",
		got.Time.Local().Format(time.TimeOnly), got.Method, printable(got.Path), dash(printable(got.Capability)), dash(printable(got.App)),
		got.Attempt, dash(printable(got.ID)), printable(got.Signature), got.Status, printable(got.Body))
}

// answer writes what an app answers, with the agreed body.
func answer(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	body := `{"success":true}`
	if status >= 300 {
		body = fmt.Sprintf(`{"success":false,"error":{"code":"listen","message":%q}}`, message)
	}
	// 204 and 304 take no body, and an app that left reads none.
	_, _ = io.WriteString(w, body+"\n")
}
