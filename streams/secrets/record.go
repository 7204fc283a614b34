package secrets

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"
)

// entry is one sealed secret, as the bucket has it.
type entry struct {
	// ID tells an app's secrets apart for people and logs; it means nothing.
	ID     string `json:"id"`
	Sealed []byte `json:"sealed"`
	// Created is when it became the app's newest.
	Created time.Time `json:"created"`
	// Expires is when it stops being active. Zero: not before it is rotated.
	Expires time.Time `json:"expires,omitzero"`
}

func newEntry(sealed []byte, now time.Time) entry {
	return entry{ID: rand.Text()[:8], Sealed: sealed, Created: now.UTC().Truncate(time.Millisecond)}
}

// record is the value of an app's key: its secrets, newest first.
type record []entry

// parseRecord reads a value; an empty one is an empty record.
func parseRecord(value []byte) (record, error) {
	var r record
	if len(value) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("the stored record can't be read: %w; rotate-secret can't go on from it, so remove it (nats kv purge secrets APP) and set a new secret", err)
	}
	return r, nil
}

// json returns the record for the bucket, indented for `nats kv get`.
func (r record) json() ([]byte, error) { return json.MarshalIndent(r, "", "  ") }

// rotate puts e in front. What was there expires at until, or when it would
// have anyway; what has expired by then, or is too much, is dropped.
func (r record) rotate(e entry, until time.Time) record {
	next := record{e}
	for _, old := range r {
		if old.Expires.IsZero() || old.Expires.After(until) {
			old.Expires = until
		}
		if old.Expires.After(e.Created) && len(next) < maxActive {
			next = append(next, old)
		}
	}
	return next
}
