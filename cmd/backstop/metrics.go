package main

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"backstop/cmd/backstop/metrics"
	"backstop/cmd/backstop/ops"
	"backstop/streams"
	"backstop/streams/manifest"
)

// mostSeries is how many of the longest lanes, and of the endpoints with the
// most dead letters, have series. With more than that in trouble, the totals
// tell enough.
const mostSeries = 100

// measure prepares what keeps the metrics that have to be asked for: it follows
// manifests and gates, and looks at the streams.
func (b *broker) measure(found buckets, cfg Config, counted *metrics.Metrics, registry prometheus.Registerer, log *slog.Logger) (run func(context.Context) error) {
	c := &client{cfg: cfg, nc: b.nc, js: b.js, ops: ops.New(ops.Config{JetStream: b.js})}
	state := metrics.NewBroker(registry, func(ctx context.Context) (metrics.State, error) {
		return c.metricsState(ctx, b.storeBytes(), counted.Declares)
	}, log)
	return func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return state.Run(ctx) })
		group.Go(func() error {
			return counted.Follow(ctx, manifest.NewStore(found.apps, log), cfg.manifestDefaults(), streams.NewGates(found.breakers), streams.NewHealths(found.health), log)
		})
		return group.Wait()
	}
}

// metricsState asks NATS for what the metrics show. storeLimit is the embedded
// server's, 0 for an external NATS, which is asked for it; declares tells which
// endpoints may be named.
func (c *client) metricsState(ctx context.Context, storeLimit int64, declares func(streams.EndpointID) bool) (metrics.State, error) {
	s := metrics.State{StoreLimit: uint64(max(storeLimit, 0))}
	shared, err := c.ops.Queues(ctx, 0)
	if err != nil {
		return s, err
	}
	now := time.Now()
	for _, l := range shared {
		if !streams.ValidName(l.Capability) {
			continue // somebody's stream, and none of Backstop's
		}
		lane := metrics.Lane{EndpointID: streams.EndpointID{Capability: l.Capability}, Events: l.Backlog, InFlight: l.InFlight}
		if l.OldestAgeMs > 0 {
			lane.Oldest = now.Add(-time.Duration(l.OldestAgeMs) * time.Millisecond)
		}
		s.Lanes = append(s.Lanes, lane)
	}
	if err := c.ownLanes(ctx, &s, declares); err != nil {
		return s, err
	}
	dead, err := c.perEndpoint(ctx, streams.DeadLetterStream, declares)
	if err != nil {
		return s, err
	}
	s.DeadLetters = dead.messages
	s.MostDead = dead.counts[:min(len(dead.counts), mostSeries)]
	return s, c.storeState(ctx, &s)
}

// ownLanes asks for the lanes of endpoints in trouble.
func (c *client) ownLanes(ctx context.Context, s *metrics.State, declares func(streams.EndpointID) bool) error {
	lanes, err := c.perEndpoint(ctx, streams.LaneStream, declares)
	if err != nil {
		return err
	}
	s.OwnLanes, s.Parked = lanes.subjects, lanes.messages
	for _, n := range lanes.counts {
		if len(s.Longest) == mostSeries {
			break
		}
		if n.App == "" {
			continue // of apps that are no more
		}
		oldest, err := ops.OldestIn(ctx, lanes.stream, n.EndpointID)
		if unreachable(err) {
			return err
		}
		s.Longest = append(s.Longest, metrics.Lane{EndpointID: n.EndpointID, Events: n.N, Oldest: oldest})
	}
	return nil
}

// endpointCounts is how many messages a stream holds.
type endpointCounts struct {
	stream   jetstream.Stream
	messages uint64
	subjects uint64
	// counts is by endpoint, the most first, with those that may not be named
	// in one of no name. Empty when there are too many; see streams.CountSubjects.
	counts []metrics.Count
}

// perEndpoint counts the messages of each endpoint in a stream.
func (c *client) perEndpoint(ctx context.Context, name string, declares func(streams.EndpointID) bool) (endpointCounts, error) {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return endpointCounts{}, err
	}
	state, err := streams.CountSubjects(ctx, stream)
	if err != nil {
		return endpointCounts{}, err
	}
	all := endpointCounts{stream: stream, messages: state.Msgs, subjects: state.NumSubjects}
	counts := make(map[streams.EndpointID]uint64)
	for subject, n := range state.Subjects {
		_, id, err := streams.ParseSubject(subject)
		if err != nil || !declares(id) {
			id = streams.EndpointID{}
		}
		counts[id] += n
	}
	for id, n := range counts {
		all.counts = append(all.counts, metrics.Count{EndpointID: id, N: n})
	}
	slices.SortFunc(all.counts, func(x, y metrics.Count) int {
		return cmp.Or(cmp.Compare(y.N, x.N), x.Compare(y.EndpointID))
	})
	return all, nil
}

// storeState asks how full the store is, and the streams that refuse what
// doesn't fit.
func (c *client) storeState(ctx context.Context, s *metrics.State) error {
	list := c.js.ListStreams(ctx)
	for info := range list.Info() {
		if cfg := info.Config; ours(cfg.Name) && cfg.Discard == jetstream.DiscardNew && cfg.MaxBytes > 0 {
			s.Streams = append(s.Streams, metrics.Stream{Name: cfg.Name, Bytes: info.State.Bytes, Limit: uint64(cfg.MaxBytes)})
		}
	}
	if err := list.Err(); err != nil {
		return err
	}
	account, err := c.js.AccountInfo(ctx)
	if err != nil {
		return err
	}
	s.StoreBytes = account.Store
	if limit := account.Limits.MaxStore; s.StoreLimit == 0 && limit > 0 {
		s.StoreLimit = uint64(limit)
	}
	return nil
}

// ours tells whether a stream of the account is one of Backstop's.
func ours(stream string) bool {
	if capability, ok := strings.CutPrefix(stream, streams.EventStreamPrefix); ok {
		return streams.ValidName(capability)
	}
	return slices.Contains([]string{
		streams.LaneStream, streams.DeadLetterStream, streams.ResultStream, streams.NoticeStream, streams.AttemptStream, streams.AdvisoryStream,
	}, stream)
}
