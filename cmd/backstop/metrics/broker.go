package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"backstop/fallback"
	"backstop/streams"
)

// State is what NATS knows of the pipeline at one moment, whichever replica
// asks. All that it names becomes a label: endpoints are declared by a
// manifest, and capabilities and streams are known, none is a publisher's word.
type State struct {
	// Lanes are the shared ones, one for each capability.
	Lanes []Lane
	// OwnLanes is how many endpoints have events in a lane of their own, and
	// Parked how many events those hold.
	OwnLanes uint64
	Parked   uint64
	// Longest are the longest of the own lanes.
	Longest []Lane
	// DeadLetters are those that wait for a decision.
	DeadLetters uint64
	// MostDead are the endpoints with the most dead letters. Those that no
	// manifest declares are counted together, without names.
	MostDead []Count
	// Streams are those that refuse what doesn't fit.
	Streams []Stream
	// StoreBytes is what streams take of the store, StoreLimit what they may
	// take; 0 when there is no limit, or it isn't known.
	StoreBytes, StoreLimit uint64
}

// Lane is a queue of events.
type Lane struct {
	// EndpointID is whose; without an app it is the shared lane of a capability.
	streams.EndpointID
	// Events wait, or are in flight.
	Events uint64
	// InFlight is those of them that a replica has in hand; for shared lanes.
	InFlight int
	// Oldest is when the oldest of them was published. Zero: not known.
	Oldest time.Time
}

// Count is a number of dead letters of an endpoint.
type Count struct {
	streams.EndpointID
	N uint64
}

// Stream is how full a stream is.
type Stream struct {
	Name         string
	Bytes, Limit uint64
}

// Broker collects what NATS knows. It is asked every few seconds by Run, never
// by a scrape. When it doesn't answer, all that it told disappears, and
// backstop_broker_up is 0.
type Broker struct {
	look  func(context.Context) (State, error)
	log   *slog.Logger
	every time.Duration

	state  atomic.Pointer[State]
	failed bool // as last logged; Run's alone
}

// refreshEvery is how often NATS is asked. It costs some requests for each
// capability, and one for each of the longest lanes.
const refreshEvery = 10 * time.Second

// NewBroker returns a Broker, registered with registry, that asks with look,
// each of whose requests must be bounded.
func NewBroker(registry prometheus.Registerer, look func(context.Context) (State, error), log *slog.Logger) *Broker {
	b := &Broker{look: look, log: log, every: refreshEvery}
	registry.MustRegister(b)
	return b
}

// Run asks until ctx ends.
func (b *Broker) Run(ctx context.Context) error {
	tick := time.NewTicker(b.every)
	defer tick.Stop()
	for {
		b.refresh(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (b *Broker) refresh(ctx context.Context) {
	state, err := b.look(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		b.state.Store(nil)
		if !b.failed {
			b.log.Warn("metrics: NATS doesn't tell how much is waiting; those metrics are gone until it does", "error", err)
		}
	default:
		b.state.Store(&state)
	}
	b.failed = err != nil
}

var (
	upDesc          = desc("backstop_broker_up", "1 when JetStream told its state at the last look, 0 when it didn't.")
	backlogDesc     = desc("backstop_backlog_events", "Events in the shared lane of the capability: published, and neither settled nor parked.", "capability")
	inFlightDesc    = desc("backstop_in_flight_events", "Events of the shared lane that a replica has in hand.", "capability")
	backlogAgeDesc  = desc("backstop_backlog_oldest_age_seconds", "Age of the oldest event in the shared lane; 0 when there is none.", "capability")
	lanesDesc       = desc("backstop_lanes", "Endpoints in trouble: those with events in a lane of their own.")
	parkedDesc      = desc("backstop_parked_events", "Events in all lanes of endpoints in trouble.")
	laneDesc        = desc("backstop_lane_events", "Events in the lane of an endpoint in trouble, for the longest lanes.", "capability", "app")
	laneAgeDesc     = desc("backstop_lane_oldest_age_seconds", "Time since the first event in the lane was published, for the longest lanes.", "capability", "app")
	pendingDesc     = desc("backstop_dead_letters_pending", "Dead letters that wait for a decision.")
	pendingOfDesc   = desc("backstop_endpoint_dead_letters_pending", "Dead letters of an endpoint that wait for a decision, for the endpoints with the most.", "capability", "app")
	streamDesc      = desc("backstop_stream_bytes", "Bytes in a stream that refuses what doesn't fit.", "stream")
	streamLimitDesc = desc("backstop_stream_limit_bytes", "Most bytes that the stream may hold.", "stream")
	storeDesc       = desc("backstop_store_bytes", "Bytes that streams take in the store.")
	storeLimitDesc  = desc("backstop_store_limit_bytes", "Most bytes that streams may take in the store; missing when NATS sets no limit.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (b *Broker) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		upDesc, backlogDesc, inFlightDesc, backlogAgeDesc, lanesDesc, parkedDesc, laneDesc, laneAgeDesc,
		pendingDesc, pendingOfDesc, streamDesc, streamLimitDesc, storeDesc, storeLimitDesc,
	} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (b *Broker) Collect(metrics chan<- prometheus.Metric) {
	s := b.state.Load()
	if s == nil {
		metrics <- gauge(upDesc, 0)
		return
	}
	metrics <- gauge(upDesc, 1)
	now := time.Now()
	for _, l := range s.Lanes {
		metrics <- gauge(backlogDesc, float64(l.Events), l.Capability)
		metrics <- gauge(inFlightDesc, float64(l.InFlight), l.Capability)
		metrics <- gauge(backlogAgeDesc, age(now, l.Oldest), l.Capability)
	}
	metrics <- gauge(lanesDesc, float64(s.OwnLanes))
	metrics <- gauge(parkedDesc, float64(s.Parked))
	for _, l := range s.Longest {
		metrics <- gauge(laneDesc, float64(l.Events), l.Capability, l.App)
		if !l.Oldest.IsZero() {
			metrics <- gauge(laneAgeDesc, age(now, l.Oldest), l.Capability, l.App)
		}
	}
	metrics <- gauge(pendingDesc, float64(s.DeadLetters))
	for _, c := range s.MostDead {
		metrics <- gauge(pendingOfDesc, float64(c.N), c.Capability, c.App)
	}
	for _, f := range s.Streams {
		metrics <- gauge(streamDesc, float64(f.Bytes), f.Name)
		metrics <- gauge(streamLimitDesc, float64(f.Limit), f.Name)
	}
	metrics <- gauge(storeDesc, float64(s.StoreBytes))
	if s.StoreLimit > 0 {
		metrics <- gauge(storeLimitDesc, float64(s.StoreLimit))
	}
}

// age is in seconds, and 0 for a time that isn't known.
func age(now, since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(now.Sub(since).Seconds(), 0)
}

// Connection registers what the connection to NATS does.
func Connection(registry prometheus.Registerer, nc *nats.Conn) {
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "backstop_nats_connected", Help: "1 while this process is connected to NATS, 0 while it isn't.",
		}, func() float64 {
			if nc.IsConnected() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "backstop_nats_reconnects_total", Help: "Times that the connection to NATS was lost and is back.",
		}, func() float64 { return float64(nc.Stats().Reconnects) }),
	)
}

// AttemptLog registers how the delivery log does: dropped is how many entries
// could not be written since the start.
func AttemptLog(registry prometheus.Registerer, dropped func() uint64) {
	registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "backstop_attempt_log_dropped_total", Help: "Entries of the delivery log that could not be written.",
	}, func() float64 { return float64(dropped()) }))
}

// Watchers registers how those do that look at the delivery log: lag is how old
// the entries are that are not added up yet, raised how many alerts there are.
// Both are 0 at replicas that don't do it.
func Watchers(registry prometheus.Registerer, lag func() time.Duration, raised func() int) {
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "backstop_rollup_lag_seconds", Help: "Age of the attempts that are not added up yet; 0 at replicas that don't add up.",
		}, func() float64 { return lag().Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "backstop_alerts", Help: "Alerts that are raised; 0 at replicas that don't evaluate them.",
		}, func() float64 { return float64(raised()) }),
	)
}

// Cache registers how the cache of answers does.
func Cache(registry prometheus.Registerer, stats func() fallback.CacheStats) {
	for result, of := range map[string]func(fallback.CacheStats) uint64{
		"hit":     func(s fallback.CacheStats) uint64 { return s.Hits },
		"miss":    func(s fallback.CacheStats) uint64 { return s.Misses },
		"stored":  func(s fallback.CacheStats) uint64 { return s.Written },
		"failed":  func(s fallback.CacheStats) uint64 { return s.Failed },
		"dropped": func(s fallback.CacheStats) uint64 { return s.Dropped },
	} {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "backstop_cache_requests_total", Help: "Answers of apps that were looked up in the cache, or put there.",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(of(stats())) }))
	}
}

// Callbacks registers a counter of what apps send to their callback URLs, by
// the status of the answer, and returns what counts for a handler.
func Callbacks(registry prometheus.Registerer) func(http.Handler) http.Handler {
	answered := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "backstop_callbacks_total", Help: "Callbacks that apps sent, by the HTTP status of the answer.",
	}, []string{"code"})
	registry.MustRegister(answered)
	answered.WithLabelValues("200") // at 0, so that the first one is an increase
	return func(next http.Handler) http.Handler { return promhttp.InstrumentHandlerCounter(answered, next) }
}
