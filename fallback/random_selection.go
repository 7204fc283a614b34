package fallback

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// seedSize is the size of a draw's seed, in bytes: nobody can try them all.
const seedSize = 32

// Selection is what is needed to repeat a draw: with the payload, it is all.
type Selection struct {
	// Algorithm is DrawAlgorithm, or what it was when the draw was made.
	Algorithm string `json:"algorithm"`
	// Seed is the random seed, in hexadecimal.
	Seed string `json:"seed"`
	// Candidates is how many different candidates there were.
	Candidates int `json:"candidates"`
	// Count is how many were drawn.
	Count int `json:"count"`
}

// randomSelection draws from the payload's candidates:
//
//	{"candidates": [ … ], "count": 3}
//
// count is 1 when it isn't there. The platform's older names, participants and
// winnersCount, are understood as well. The candidates may be any JSON; equal
// ones count once, however they are spelled.
func randomSelection(_ context.Context, r request) (answer, error) {
	seed := make([]byte, seedSize)
	_, _ = rand.Read(seed) // never fails; it would end the process
	return selectWith(seed, r.call.Event.Payload)
}

// selectWith makes the draw of the seed.
func selectWith(seed, payload []byte) (answer, error) {
	l, err := parseLottery(payload)
	if err != nil {
		return answer{}, err
	}
	s := Selection{Algorithm: DrawAlgorithm, Seed: hex.EncodeToString(seed), Candidates: len(l.candidates), Count: l.count}
	data, err := spelled(struct {
		Winners   []json.RawMessage `json:"winners"`
		Selection Selection         `json:"selection"`
	}{l.draw(seed), s})
	if err != nil {
		return answer{}, err
	}
	sum := sha256.Sum256(payload)
	return answer{data: data, audit: map[string]any{
		"algorithm": s.Algorithm, "seed": s.Seed, "candidates": s.Candidates, "count": s.Count,
		"duplicates": l.duplicates, "shape": l.shape, "payloadSha256": hex.EncodeToString(sum[:]),
	}}, nil
}

// Redraw repeats a draw from the call's payload and the seed of its answer or
// notice, in hexadecimal. It returns the winners in the order that they were
// drawn in. The error says what is wrong with the payload or the seed.
func Redraw(payload []byte, seed string) ([]json.RawMessage, error) {
	raw, err := hex.DecodeString(seed)
	if err != nil || len(raw) != seedSize {
		return nil, fmt.Errorf("a seed is %d hexadecimal digits", 2*seedSize)
	}
	l, err := parseLottery(payload)
	if err != nil {
		return nil, err
	}
	return l.draw(raw), nil
}

// lottery is what a payload asks for.
type lottery struct {
	candidates []json.RawMessage // different ones, in the order of the payload
	count      int               // from 1 to the number of candidates
	duplicates int               // how many candidates were there already
	shape      string            // the names that the payload used: "candidates, count"
}

func (l lottery) draw(seed []byte) []json.RawMessage {
	winners := make([]json.RawMessage, 0, l.count)
	for _, i := range Draw(seed, len(l.candidates), l.count) {
		winners = append(winners, l.candidates[i])
	}
	return winners
}

// parseLottery reads a payload. The error says why nothing can be drawn.
func parseLottery(payload []byte) (lottery, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(payload, &members); err != nil || members == nil {
		return lottery{}, errors.New("the payload is not a JSON object")
	}
	names, list := either(members, "candidates", "participants")
	if list == nil {
		return lottery{}, errors.New(`the payload has no "candidates"`)
	}
	var all []json.RawMessage
	if err := json.Unmarshal(list, &all); err != nil {
		return lottery{}, fmt.Errorf("%q in the payload is not a list", names)
	}
	l := lottery{count: 1, shape: names}
	if name, count := either(members, "count", "winnersCount"); count != nil {
		var err error
		if l.count, err = parseCount(count); err != nil {
			return lottery{}, fmt.Errorf("%q in the payload %w", name, err)
		}
		l.shape += ", " + name
	}
	keys, err := canonicalItems(list)
	if err != nil {
		return lottery{}, err
	}
	l.admit(all, keys)
	if l.count > len(l.candidates) {
		return lottery{}, fmt.Errorf("%d are to be drawn from %d different candidates", l.count, len(l.candidates))
	}
	return l, nil
}

// either returns the first of the members that is there and not null.
func either(members map[string]json.RawMessage, names ...string) (string, json.RawMessage) {
	for _, name := range names {
		if v, ok := members[name]; ok && string(v) != "null" {
			return name, v
		}
	}
	return "", nil
}

// parseCount reads a whole number from 1; 3.0 is one, "3" is not.
func parseCount(raw json.RawMessage) (int, error) {
	n, err := strconv.ParseFloat(string(raw), 64)
	switch {
	case err != nil || math.Trunc(n) != n:
		return 0, errors.New("is not a whole number")
	case n < 1:
		return 0, errors.New("is less than 1")
	case n > math.MaxInt32: // more than a payload has room for
		return 0, errors.New("is more than there can be candidates")
	default:
		return int(n), nil
	}
}

// admit takes each candidate once, of those with the same key the first.
func (l *lottery) admit(all []json.RawMessage, keys []string) {
	seen := make(map[string]bool, len(all))
	for i, key := range keys {
		if seen[key] {
			l.duplicates++
			continue
		}
		seen[key] = true
		l.candidates = append(l.candidates, all[i])
	}
}
