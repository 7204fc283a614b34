package ops

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"backstop/streams"
)

// DeadLetterCounts counts dead letters.
type DeadLetterCounts struct {
	Total     uint64            `json:"total"`
	Endpoints []DeadLetterCount `json:"endpoints"`
	// Reasons is empty above maxReasonScan: they have to be read for it.
	Reasons []ReasonCount `json:"reasons"`
}

// DeadLetterCount is how many dead letters an endpoint has.
type DeadLetterCount struct {
	App        string `json:"app"`
	Capability string `json:"capability"`
	Count      uint64 `json:"count"`
}

// ReasonCount is how many dead letters have a reason.
type ReasonCount struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// maxReasonScan is how many dead letters are read, headers only, to count
// their reasons; ten thousand take a third of a second.
const maxReasonScan = 10_000

// CountDeadLetters counts the dead letters there are.
func (o *Ops) CountDeadLetters(ctx context.Context) (DeadLetterCounts, error) {
	s := DeadLetterCounts{Endpoints: []DeadLetterCount{}, Reasons: []ReasonCount{}}
	total, counts, err := o.DeadLetters().Counts(ctx)
	if err != nil {
		return s, err
	}
	s.Total = total
	for id, count := range counts {
		s.Endpoints = append(s.Endpoints, DeadLetterCount{App: id.App, Capability: id.Capability, Count: count})
	}
	slices.SortFunc(s.Endpoints, func(x, y DeadLetterCount) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), strings.Compare(x.App, y.App), strings.Compare(x.Capability, y.Capability))
	})
	if s.Total > 0 && s.Total <= maxReasonScan {
		s.Reasons, err = o.countReasons(ctx)
	}
	return s, err
}

// countReasons reads the headers of all dead letters.
func (o *Ops) countReasons(ctx context.Context) ([]ReasonCount, error) {
	counts := make(map[streams.DeadLetterReason]int)
	for d, err := range o.DeadLetters().Select(ctx, streams.Filter{WithoutPayload: true}) {
		if err != nil {
			return nil, err
		}
		counts[d.Reason]++
	}
	reasons := make([]ReasonCount, 0, len(counts))
	for reason, n := range counts {
		reasons = append(reasons, ReasonCount{Reason: cmp.Or(string(reason), "-"), Count: n})
	}
	slices.SortFunc(reasons, func(x, y ReasonCount) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), strings.Compare(x.Reason, y.Reason))
	})
	return reasons, nil
}
