package main

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"backstop/cmd/backstop/metrics"
	"backstop/streams"
	"backstop/streams/manifest"
)

// mostSeries is how many of the longest lanes, and of the endpoints with the
// most dead letters, have series. With more than that in trouble, the totals
// tell enough.
const mostSeries = 100

// measure prepares what keeps the metrics that have to be asked for: it follows
// manifests and gates, and looks at the streams.
func (b *broker) measure(ctx context.Context, cfg Config, counted *metrics.Metrics, registry prometheus.Registerer, log *slog.Logger) (run func(context.Context) error, err error) {
	manifests, err := b.js.KeyValue(ctx, streams.AppsBucket)
	if err != nil {
		return nil, err
	}
	gates, err := b.js.KeyValue(ctx, streams.BreakersBucket)
	if err != nil {
		return nil, err
	}
	c := &client{cfg: cfg, nc: b.nc, js: b.js}
	state := metrics.NewBroker(registry, func(ctx context.Context) (metrics.State, error) {
		return c.metricsState(ctx, b.storeBytes())
	}, log)
	return func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return state.Run(ctx) })
		group.Go(func() error {
			return counted.Follow(ctx, manifest.NewStore(manifests, log), cfg.manifestDefaults(), streams.NewGates(gates), log)
		})
		return group.Wait()
	}, nil
}

// metricsState asks NATS for what the metrics show. storeLimit is the embedded
// server's, 0 for an external NATS, which is asked for it.
func (c *client) metricsState(ctx context.Context, storeLimit int64) (metrics.State, error) {
	s := metrics.State{StoreLimit: uint64(max(storeLimit, 0))}
	shared, err := c.capabilityStatus(ctx, 0)
	if err != nil {
		return s, err
	}
	now := time.Now()
	for _, l := range shared {
		lane := metrics.Lane{EndpointID: streams.EndpointID{Capability: l.Capability}, Events: l.Backlog, InFlight: l.InFlight}
		if l.OldestAgeMs > 0 {
			lane.Oldest = now.Add(-time.Duration(l.OldestAgeMs) * time.Millisecond)
		}
		s.Lanes = append(s.Lanes, lane)
	}
	if err := c.ownLanes(ctx, &s); err != nil {
		return s, err
	}
	var counts []metrics.Count
	if _, counts, err = c.perEndpoint(ctx, streams.DeadLetterStream); err != nil {
		return s, err
	}
	for _, n := range counts {
		s.DeadLetters += n.N
	}
	s.MostDead = counts[:min(len(counts), mostSeries)]
	return s, c.storeState(ctx, &s)
}

// ownLanes asks for the lanes of endpoints in trouble.
func (c *client) ownLanes(ctx context.Context, s *metrics.State) error {
	stream, counts, err := c.perEndpoint(ctx, streams.LaneStream)
	if err != nil {
		return err
	}
	s.OwnLanes = len(counts)
	for i, n := range counts {
		s.Parked += n.N
		if i >= mostSeries {
			continue
		}
		lane := metrics.Lane{EndpointID: n.EndpointID, Events: n.N}
		first, err := stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(n.Subject(streams.Lanes)))
		if err == nil {
			var event streams.Event
			if event, err = streams.DecodeRaw(first); err == nil {
				lane.Oldest = event.PublishedAt
			}
		}
		if unreachable(err) {
			return err
		}
		s.Longest = append(s.Longest, lane) // one that was emptied meanwhile has no oldest
	}
	return nil
}

// perEndpoint counts the messages of each endpoint in a stream, the most first.
func (c *client) perEndpoint(ctx context.Context, name string) (jetstream.Stream, []metrics.Count, error) {
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return nil, nil, err
	}
	counts := make([]metrics.Count, 0, len(info.State.Subjects))
	for subject, n := range info.State.Subjects {
		if _, id, err := streams.ParseSubject(subject); err == nil {
			counts = append(counts, metrics.Count{EndpointID: id, N: n})
		}
	}
	slices.SortFunc(counts, func(x, y metrics.Count) int {
		return cmp.Or(cmp.Compare(y.N, x.N), cmp.Compare(x.String(), y.String()))
	})
	return stream, counts, nil
}

// storeState asks how full the store is, and the streams that refuse what
// doesn't fit.
func (c *client) storeState(ctx context.Context, s *metrics.State) error {
	list := c.js.ListStreams(ctx)
	for info := range list.Info() {
		if cfg := info.Config; cfg.Discard == jetstream.DiscardNew && cfg.MaxBytes > 0 {
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
