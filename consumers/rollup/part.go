package rollup

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"backstop/streams"
)

// PartSize is the most endpoints in one part. With as many different durations
// as there can be, at most some 1,100 at 4 bytes each, a part of them stays
// below the megabyte that a message may have.
const PartSize = 128

// Part is what is stored of a minute: up to PartSize of the endpoints that had
// attempts in it. An endpoint stays in its part.
type Part struct {
	Minute time.Time `json:"minute"`
	Number int       `json:"part"` // from 0
	// Parts is how many the minute had when this one was stored.
	Parts int `json:"parts"`
	// Through is the last entry of the delivery log that is in it, and in
	// everything that was stored before it.
	Through   uint64 `json:"through"`
	Endpoints []Sum  `json:"endpoints"`
}

// Sum is one endpoint's minute.
type Sum struct {
	App        string `json:"app"`
	Capability string `json:"capability"`
	Counts
	// Durations is a sketch of the attempts' durations in milliseconds.
	Durations []byte `json:"durations,omitempty"`
}

// ID returns the endpoint.
func (s Sum) ID() streams.EndpointID {
	return streams.EndpointID{Capability: s.Capability, App: s.App}
}

// Key returns "<minute>.<part>", as "12-00.0".
func (p Part) Key() string { return Key(p.Minute, p.Number) }

// Key returns the key of a minute's part.
func Key(minute time.Time, number int) string {
	return Minute(minute) + "." + strconv.Itoa(number)
}

// Minute returns the first token of the keys of a minute's parts. It is the
// minute of the day alone: the next day's takes its place, so that there are no
// more keys than a day has, and nobody has to remove any.
func Minute(at time.Time) string { return at.UTC().Format("15-04") }

// Encode returns what is stored under the part's key.
func (p Part) Encode() ([]byte, error) { return json.Marshal(p) }

// DecodePart reads what is stored under a key.
func DecodePart(key string, value []byte) (Part, error) {
	p := Part{}
	err := json.Unmarshal(value, &p)
	switch {
	case err != nil:
	case p.Key() != key:
		err = fmt.Errorf("it calls itself %q", p.Key())
	case p.Number < 0 || p.Number >= p.Parts:
		err = fmt.Errorf("part %d of %d can't be", p.Number, p.Parts)
	}
	if err != nil {
		return Part{}, fmt.Errorf("entry %q is not a part of a minute: %w", key, err)
	}
	return p, nil
}
