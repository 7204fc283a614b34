package ops

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
	stream, err := o.js.Stream(ctx, streams.DeadLetterStream)
	if err != nil {
		return s, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return s, err
	}
	s.Total = info.State.Msgs
	for subject, count := range info.State.Subjects {
		if _, id, err := streams.ParseSubject(subject); err == nil {
			s.Endpoints = append(s.Endpoints, DeadLetterCount{App: id.App, Capability: id.Capability, Count: count})
		}
	}
	slices.SortFunc(s.Endpoints, func(x, y DeadLetterCount) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), strings.Compare(x.App, y.App), strings.Compare(x.Capability, y.Capability))
	})
	if s.Total > 0 && s.Total <= maxReasonScan {
		s.Reasons, err = o.countReasons(ctx, int(s.Total))
	}
	return s, err
}

// countReasons reads the headers of at most limit dead letters.
func (o *Ops) countReasons(ctx context.Context, limit int) ([]ReasonCount, error) {
	consumer, err := o.js.OrderedConsumer(ctx, streams.DeadLetterStream, jetstream.OrderedConsumerConfig{
		HeadersOnly: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	// The library leaves the consumer to the server; under `watch backstop
	// status` they would pile up.
	defer func() { _ = o.js.DeleteConsumer(ctx, streams.DeadLetterStream, consumer.CachedInfo().Name) }()
	batch, err := consumer.FetchNoWait(limit)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	counts := make(map[string]int)
	for msg := range batch.Messages() {
		counts[msg.Headers().Get(streams.HeaderReason)]++
	}
	reasons := make([]ReasonCount, 0, len(counts))
	for reason, n := range counts {
		reasons = append(reasons, ReasonCount{Reason: cmp.Or(reason, "-"), Count: n})
	}
	slices.SortFunc(reasons, func(x, y ReasonCount) int {
		return cmp.Or(cmp.Compare(y.Count, x.Count), strings.Compare(x.Reason, y.Reason))
	})
	return reasons, batch.Error()
}
