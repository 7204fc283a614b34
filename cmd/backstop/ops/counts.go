package ops

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

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
		s.Reasons, err = o.reasons.of(total, func() ([]ReasonCount, error) { return o.countReasons(ctx) })
	}
	return s, err
}

// reasonsKept is how long counted reasons are good for. Every open dashboard
// asks for them every few seconds, and counting reads up to maxReasonScan
// messages.
const reasonsKept = 2 * time.Second

// reasonCounts keeps what was counted last. The zero value is ready to use.
type reasonCounts struct {
	mu    sync.Mutex // held while counting, so that those who ask meanwhile share it
	at    time.Time
	total uint64
	last  []ReasonCount
}

// of returns the reasons of that many dead letters: those counted lately,
// unless there are fewer by now, as after somebody's decision about some, which
// they want to see.
func (c *reasonCounts) of(total uint64, count func() ([]ReasonCount, error)) ([]ReasonCount, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && total >= c.total && time.Since(c.at) < reasonsKept {
		return slices.Clone(c.last), nil
	}
	reasons, err := count()
	if err != nil {
		return nil, err
	}
	c.at, c.total, c.last = time.Now(), total, reasons
	return slices.Clone(reasons), nil
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
