package ops

import (
	"cmp"
	"context"
	"slices"
	"time"

	"backstop/streams"
)

// Group is dead letters of one endpoint with one cause.
type Group struct {
	// Fingerprint is that of the cause; see streams.DeadLetter.
	Fingerprint string                   `json:"fingerprint"`
	App         string                   `json:"app"`
	Capability  string                   `json:"capability"`
	Reason      streams.DeadLetterReason `json:"reason"`
	Status      int                      `json:"status,omitempty"`
	// Error is the common text, with # for what differs.
	Error string `json:"error"`
	Count int    `json:"count"`
	// First and Last are when the first and the last of them were given up.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Example is the id of the last one's event.
	Example string `json:"example"`
}

// Group sorts the dead letters that the filter selects by endpoint and cause,
// the largest group first.
func (o *Ops) Group(ctx context.Context, f streams.Filter) ([]Group, error) {
	type key struct {
		streams.EndpointID
		fingerprint string
	}
	groups := make(map[key]*Group)
	f.WithoutPayload = true
	for d, err := range o.DeadLetters().Select(ctx, f) {
		if err != nil {
			return nil, err
		}
		k := key{streams.EndpointID{Capability: d.Capability, App: d.App}, d.Fingerprint()}
		g := groups[k]
		if g == nil {
			g = &Group{
				Fingerprint: k.fingerprint, App: d.App, Capability: d.Capability, Reason: d.Reason, Status: d.Status,
				Error: d.SameError(), First: d.FailedAt.UTC(), Last: d.FailedAt.UTC(), Example: d.ID,
			}
			groups[k] = g
		}
		g.Count++
		if d.FailedAt.Before(g.First) {
			g.First = d.FailedAt.UTC()
		}
		if !d.FailedAt.Before(g.Last) {
			g.Last, g.Example = d.FailedAt.UTC(), d.ID
		}
	}
	all := make([]Group, 0, len(groups))
	for _, g := range groups {
		all = append(all, *g)
	}
	slices.SortFunc(all, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.App, b.App), cmp.Compare(a.Capability, b.Capability), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return all, nil
}
