package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// deadLetterStatus counts dead letters.
type deadLetterStatus struct {
	Total     uint64            `json:"total"`
	Endpoints []deadLetterCount `json:"endpoints"`
	// Reasons is empty above maxReasonScan: they have to be read for it.
	Reasons []reasonCount `json:"reasons"`
}

type deadLetterCount struct {
	App        string `json:"app"`
	Capability string `json:"capability"`
	Count      uint64 `json:"count"`
}

type reasonCount struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// maxReasonScan is how many dead letters are read, headers only, to count
// their reasons; ten thousand take a third of a second.
const maxReasonScan = 10_000

func (c *client) deadLetterStatus(ctx context.Context) (deadLetterStatus, error) {
	s := deadLetterStatus{Endpoints: []deadLetterCount{}, Reasons: []reasonCount{}}
	counts, err := streams.NewDeadLetters(c.js).Counts(ctx)
	if err != nil {
		return s, err
	}
	for id, count := range counts {
		s.Total += count
		s.Endpoints = append(s.Endpoints, deadLetterCount{App: id.App, Capability: id.Capability, Count: count})
	}
	slices.SortFunc(s.Endpoints, func(x, y deadLetterCount) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), strings.Compare(x.App, y.App), strings.Compare(x.Capability, y.Capability))
	})
	if s.Total > 0 && s.Total <= maxReasonScan {
		s.Reasons, err = c.countReasons(ctx, int(s.Total))
	}
	return s, err
}

// countReasons reads the headers of at most limit dead letters.
func (c *client) countReasons(ctx context.Context, limit int) ([]reasonCount, error) {
	consumer, err := c.js.OrderedConsumer(ctx, streams.DeadLetterStream, jetstream.OrderedConsumerConfig{
		HeadersOnly: true, InactiveThreshold: 2 * requestTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	// The library leaves the consumer to the server; under `watch backstop
	// status` they would pile up.
	defer func() { _ = c.js.DeleteConsumer(ctx, streams.DeadLetterStream, consumer.CachedInfo().Name) }()
	batch, err := consumer.FetchNoWait(limit)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	counts := make(map[string]int)
	for msg := range batch.Messages() {
		counts[msg.Headers().Get(streams.HeaderReason)]++
	}
	reasons := make([]reasonCount, 0, len(counts))
	for reason, n := range counts {
		reasons = append(reasons, reasonCount{Reason: dash(reason), Count: n})
	}
	slices.SortFunc(reasons, func(x, y reasonCount) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), strings.Compare(x.Reason, y.Reason))
	})
	return reasons, batch.Error()
}
