package streams

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/killpoint"
)

// Times that the streams are made with.
const (
	// AckWait is how soon the broker hands out again what a killed worker
	// held. Short, so that an event is tried again within 5 s of a kill;
	// longer calls are marked as in progress at a third of it.
	AckWait = 4 * time.Second
	// EventDuplicates is the window in which a second publish with the same
	// Nats-Msg-Id is dropped: JetStream's own default.
	EventDuplicates = 2 * time.Minute
	// laneDuplicates outlasts a crash and restart between parking an event
	// and acknowledging its source.
	laneDuplicates = 10 * time.Minute
	// deadLetterDuplicates is how long an event can have only one dead letter
	// for each endpoint, however often a process dies while writing it.
	deadLetterDuplicates = 24 * time.Hour
	// MaxCacheAge is how long an answer is kept for the cached fallback, and
	// so the most that a manifest's ttl may ask for.
	MaxCacheAge = 24 * time.Hour
	// resultDuplicates is how long a callback that is repeated, or a decision,
	// can have only one result. A callback URL is good for 24 h, and one that
	// came with a late attempt, or a delivery for want of a callback, begins
	// later: by as much as an event may age by default.
	resultDuplicates = 48 * time.Hour
	// markerTTL is how long the broker keeps the trace of an entry that was
	// removed from the callbacks bucket, where every event has a key of its own.
	markerTTL = time.Minute
	// leaseTTL is how long a lease outlives its holder.
	leaseTTL = 10 * time.Second
)

// Deliveries of one message. The broker counts every delivery, whether or not
// it led to a request, so these only guard against an event that kills its
// worker time and again: at CrashLoop… the worker itself writes the dead
// letter before it touches the event; at max-deliver the broker gives up, and
// its advisory does (see AdvisoryStream).
const (
	CrashLoopEvents = 10 // an event in a shared lane is delivered again only after a crash or a shutdown
	maxDeliverEvent = 15
	CrashLoopLane   = 30 // in its own lane also for being early, at most twice a retry
	maxDeliverLane  = 40
)

// maxAckPending bounds what a consumer has handed out: events in flight and
// retries that wait. Delayed naks count here, so it is far above the broker's
// default of 1,000, where a thousand waiting retries would stop the lane.
const maxAckPending = 50_000

// maxLanes is the most endpoints in trouble at once; servers from 2.15 on
// allow a stream 1,000 consumers unless told otherwise.
const maxLanes = 200_000

// Settings says how large and how safe the streams are made.
type Settings struct {
	// Replicas of every stream and bucket. Defaults to 1; 3 on a cluster.
	Replicas int
	// StoreBytes is the room that all streams share, from which their limits
	// are derived: limits are reservations, and the broker refuses a stream
	// whose reservation doesn't fit. Zero means unknown, and the limits are
	// those of a store with 64 GiB.
	StoreBytes int64
	// MaxMsgSize is the largest message of a service, headers included. It
	// must leave room below the server's max_payload for the headers of a
	// dead letter. Zero means 1 MiB less 64 KiB, which fits a server with
	// default settings.
	MaxMsgSize int32
	// AllowedNetworks are noted on the apps bucket, so that a client that
	// validates a manifest can apply the rules of the pipeline it talks to.
	AllowedNetworks string
}

// AllowedNetworksKey is the metadata key of Settings.AllowedNetworks.
const AllowedNetworksKey = "backstop.allowed_networks"

// Topology makes the streams and buckets of the contract, or brings them up to
// date. Every method is idempotent and may run in several replicas at once.
type Topology struct {
	js  jetstream.JetStream
	set Settings
}

// NewTopology returns a Topology that makes streams in js by the settings.
func NewTopology(js jetstream.JetStream, set Settings) *Topology {
	if set.Replicas < 1 {
		set.Replicas = 1
	}
	if set.StoreBytes <= 0 {
		set.StoreBytes = 64 << 30
	}
	if set.MaxMsgSize <= 0 {
		set.MaxMsgSize = 1<<20 - 64<<10
	}
	return &Topology{js: js, set: set}
}

// Ensure makes everything that exists once. Streams of capabilities are made
// by EnsureCapability, when a manifest declares one.
func (t *Topology) Ensure(ctx context.Context) error {
	for _, cfg := range t.streams() {
		if err := t.ensureStream(ctx, cfg); err != nil {
			return err
		}
	}
	for _, cfg := range t.buckets() {
		if err := t.ensureBucket(ctx, cfg); err != nil {
			return err
		}
	}
	err := t.ensureConsumer(ctx, AdvisoryStream, jetstream.ConsumerConfig{
		Durable:     AdvisoryConsumer,
		Description: "Dead-letters what the broker gave up on (max-deliver)",
		AckPolicy:   jetstream.AckExplicitPolicy,
		AckWait:     30 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("consumer %s of %s: %w", AdvisoryConsumer, AdvisoryStream, err)
	}
	return nil
}

// Missing returns the streams, those of buckets included, that Ensure made and
// that aren't there any more.
func (t *Topology) Missing(ctx context.Context) ([]string, error) {
	there := make(map[string]bool)
	names := t.js.StreamNames(ctx)
	for name := range names.Name() {
		there[name] = true
	}
	if err := names.Err(); err != nil {
		return nil, fmt.Errorf("list the streams: %w", err)
	}
	var missing []string
	for _, cfg := range t.streams() {
		missing = append(missing, cfg.Name)
	}
	for _, cfg := range t.buckets() {
		missing = append(missing, "KV_"+cfg.Bucket)
	}
	return slices.DeleteFunc(missing, func(name string) bool { return there[name] }), nil
}

func (t *Topology) ensureBucket(ctx context.Context, cfg jetstream.KeyValueConfig) error {
	err := patiently(ctx, func(ctx context.Context) error {
		_, err := t.js.CreateOrUpdateKeyValue(ctx, cfg)
		return err
	})
	var api *jetstream.APIError
	if errors.As(err, &api) && insufficient(api.ErrorCode) {
		if _, there := t.js.KeyValue(ctx, cfg.Bucket); there == nil {
			return nil // as serves says of streams
		}
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", cfg.Bucket, err)
	}
	return nil
}

func (t *Topology) ensureConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) error {
	return patiently(ctx, func(ctx context.Context) error {
		_, err := t.js.CreateOrUpdateConsumer(ctx, stream, cfg)
		return err
	})
}

// EnsureCapability makes the stream EVENTS_<capability> and its durable, from
// when on services can publish events of the capability.
func (t *Topology) EnsureCapability(ctx context.Context, capability string) error {
	err := t.ensureStream(ctx, t.eventStream(capability, eventSubjects(capability),
		"Events of "+capability+" for every app, in the order of publishing"))
	if err != nil {
		return err
	}
	return t.EnsureEventConsumer(ctx, capability)
}

// eventSubjects are what the stream of a capability takes while an app declares it.
func eventSubjects(capability string) []string {
	all := EndpointID{Capability: capability}.Subject(Events)
	return []string{all, all + ".*"}
}

// Open tells whether services can publish events of the capability.
func (t *Topology) Open(ctx context.Context, capability string) (bool, error) {
	stream, err := t.js.Stream(ctx, EventStream(capability))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stream %s: %w", EventStream(capability), err)
	}
	return slices.Equal(stream.CachedInfo().Config.Subjects, eventSubjects(capability)), nil
}

// EnsureEventConsumer makes the durable of the capability's stream alone, and
// leaves a retired one retired.
func (t *Topology) EnsureEventConsumer(ctx context.Context, capability string) error {
	err := t.ensureConsumer(ctx, EventStream(capability), jetstream.ConsumerConfig{
		Durable:       EventConsumer,
		Description:   "Shared lane: webhooks of all healthy endpoints, pulled by every replica",
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       AckWait,
		MaxDeliver:    maxDeliverEvent,
		MaxAckPending: maxAckPending,
		Metadata:      map[string]string{"backstop.capability": capability},
	})
	if err != nil {
		return fmt.Errorf("consumer %s of %s: %w", EventConsumer, EventStream(capability), err)
	}
	return nil
}

// retired is before the subject of a stream that takes no events any more.
const retired = Retired + "."

// RetireCapability makes publishing the capability's events fail at once, as
// no app declares it any more. The stream stays for what it still holds, under
// a subject that nobody publishes to, and EnsureCapability brings it back: a
// stream that is deleted could take an event with it that was acknowledged a
// moment before. A capability that never had a stream is no error.
func (t *Topology) RetireCapability(ctx context.Context, capability string) error {
	_, err := t.js.Stream(ctx, EventStream(capability))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", EventStream(capability), err)
	}
	return t.ensureStream(ctx, t.eventStream(capability, []string{retired + EndpointID{Capability: capability}.Subject(Events)},
		"Retired: no app declares "+capability+" as async; publishing fails until one does"))
}

func (t *Topology) eventStream(capability string, subjects []string, description string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        EventStream(capability),
		Description: description,
		Subjects:    subjects,
		// Limits and not work-queue: with sync always every work-queue ack is
		// an fsync, which costs four fifths of the throughput. What is
		// acknowledged is trimmed behind the ack floor instead.
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		MaxBytes:           t.share(128, 4<<20, 1<<30),
		MaxMsgSize:         t.set.MaxMsgSize,
		Duplicates:         EventDuplicates,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		Metadata:           map[string]string{"backstop.capability": capability},
	}
}

// LaneConfig returns the durable of the endpoint's own lane, paused until the
// given time (zero: not paused).
//
// It has no BackOff: the broker adds BackOff to a delayed nak (the real delay
// is d + BackOff[n] − BackOff[0]), and our waits are delayed naks.
func (e EndpointID) LaneConfig(pauseUntil time.Time) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Durable:       e.LaneConsumer(),
		Description:   "Own lane of " + e.App + " for " + e.Capability + ": retries, and everything while the endpoint is in trouble",
		FilterSubject: e.Subject(Lanes),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       AckWait,
		MaxDeliver:    maxDeliverLane,
		MaxAckPending: maxAckPending,
		Metadata:      map[string]string{"backstop.capability": e.Capability, "backstop.app": e.App},
	}
	if !pauseUntil.IsZero() {
		cfg.PauseUntil = &pauseUntil
	}
	return cfg
}

func (t *Topology) streams() []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		{
			Name:         LaneStream,
			Description:  "Own queues of endpoints in trouble; one durable <capability>__<app> each, paused while its breaker is open",
			Subjects:     []string{"lanes.*.*"},
			Retention:    jetstream.WorkQueuePolicy,
			Discard:      jetstream.DiscardNew,
			MaxBytes:     t.share(8, 32<<20, 4<<30),
			Duplicates:   laneDuplicates,
			MaxConsumers: maxLanes,
			AllowDirect:  true,

			AllowAtomicPublish: true,
		},
		{
			Name:        DeadLetterStream,
			Description: "Dead letters: events that will not be tried again until somebody decides (backstop dlq)",
			Subjects:    []string{"dlq.*.*"},
			Discard:     jetstream.DiscardNew,
			MaxBytes:    t.share(16, 32<<20, 2<<30),
			Duplicates:  deadLetterDuplicates,
			AllowDirect: true,
		},
		{
			Name:        ResultStream,
			Description: "What apps answered later, and what people decided",
			Subjects:    []string{"results.*.*"},
			Discard:     jetstream.DiscardOld,
			MaxAge:      7 * 24 * time.Hour,
			MaxBytes:    t.share(64, 16<<20, 1<<30),
			Duplicates:  resultDuplicates,
			AllowDirect: true,
		},
		{
			Name:        NoticeStream,
			Description: "What a person or a service should know; subject notices.<kind>",
			Subjects:    []string{"notices.*"},
			Discard:     jetstream.DiscardOld,
			MaxAge:      7 * 24 * time.Hour,
			MaxBytes:    t.share(128, 8<<20, 256<<20),
			Duplicates:  laneDuplicates, // for the same reason: an alert is announced once
			AllowDirect: true,
		},
		{
			Name:        AttemptStream,
			Description: "Delivery log: every attempt at every webhook",
			Subjects:    []string{"attempts.*.*"},
			Discard:     jetstream.DiscardOld,
			MaxAge:      24 * time.Hour,
			MaxBytes:    t.share(64, 16<<20, 512<<20),
			AllowDirect: true,
			PersistMode: t.relaxed(),
		},
		t.rollups(),
		{
			Name:        AuditStream,
			Description: "Who changed what, when, from what to what (backstop audit); subject audit.<what>",
			Subjects:    []string{"audit.*"},
			Discard:     jetstream.DiscardOld,
			MaxAge:      400 * 24 * time.Hour,
			MaxBytes:    t.share(256, 4<<20, 256<<20),
			AllowDirect: true,
			// A record that can be edited is none.
			DenyDelete: true,
			DenyPurge:  true,
		},
		{
			Name:        AdvisoryStream,
			Description: "The broker's word that it gave up on a message (max-deliver)",
			Subjects:    []string{"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"},
			Retention:   jetstream.WorkQueuePolicy,
			Discard:     jetstream.DiscardOld,
			MaxBytes:    t.share(256, 8<<20, 64<<20),
		},
		t.cacheStream(),
	}
}

// cacheStream is the bucket of cached answers, made as the stream that a bucket
// is: the client library makes buckets that refuse writes when they are full,
// while a full cache should let go of what is oldest.
func (t *Topology) cacheStream() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              "KV_" + CacheBucket,
		Description:       "Answers kept for the cached fallback: <capability>.<app>.<hash of the key>",
		Subjects:          []string{"$KV." + CacheBucket + ".>"},
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardOld,
		MaxAge:            MaxCacheAge,
		MaxBytes:          t.share(64, 16<<20, 1<<30),
		Duplicates:        EventDuplicates,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
	}
}

// rollups is the bucket of that name, made as a stream: what is folded of the
// delivery log is stored in atomic batches, and when it has no more room the
// oldest minutes make some.
func (t *Topology) rollups() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               "KV_" + RollupsBucket,
		Description:        "Attempts by minute and endpoint, folded from ATTEMPTS: <minute>.<part>",
		Subjects:           []string{"$KV." + RollupsBucket + ".>"},
		MaxMsgsPerSubject:  1,
		Discard:            jetstream.DiscardOld,
		MaxAge:             RollupsKept + time.Hour,
		MaxBytes:           t.share(64, 16<<20, 128<<20),
		Compression:        jetstream.S2Compression,
		AllowRollup:        true,
		AllowAtomicPublish: true,
		// No direct access: whoever goes on folding must not go on from a
		// replica that is behind.
	}
}

// RollupsKept is for how long attempts are kept by the minute.
const RollupsKept = 24 * time.Hour

func (t *Topology) buckets() []jetstream.KeyValueConfig {
	bucket := func(name, description string) jetstream.KeyValueConfig {
		return jetstream.KeyValueConfig{Bucket: name, Description: description, Replicas: t.set.Replicas, History: 1}
	}
	apps := bucket(AppsBucket, "Manifests: app → what it declares (backstop apps)")
	apps.History = 5
	apps.Metadata = map[string]string{AllowedNetworksKey: t.set.AllowedNetworks}
	callbacks := bucket(CallbacksBucket, "Callbacks that apps owe: <capability>.<app>.<origin> → until when, or when it came")
	callbacks.LimitMarkerTTL = markerTTL
	leases := bucket(LeasesBucket, "Singleton task → the replica that does it")
	leases.TTL = leaseTTL
	return []jetstream.KeyValueConfig{
		apps,
		bucket(BreakersBucket, "Endpoints that are not simply open for traffic: <capability>.<app> → why and until when (backstop breakers)"),
		bucket(SecretsBucket, "Signing secrets, sealed; only a pipeline with the key file can open them"),
		bucket(PendingBucket, "Calls that wait for a person (backstop pending)"),
		callbacks,
		bucket(HealthBucket, "Health of each app: state, since when, and the last check"),
		bucket(AlertsBucket, "What is the matter now: <rule>[.<capability>.<app>] → alert (backstop alerts)"),
		leases,
	}
}

// share returns the store's size divided by the parts, kept between least and most.
func (t *Topology) share(parts, least, most int64) int64 {
	return min(max(t.set.StoreBytes/parts, least), most)
}

// relaxed is how a stream is kept whose last second may be lost with the
// power: not synced with every message, whatever the server does for the
// others. On a cluster the other servers have a copy, and JetStream allows no
// less than that.
func (t *Topology) relaxed() jetstream.PersistModeType {
	if t.set.Replicas > 1 {
		return jetstream.DefaultPersistMode
	}
	return jetstream.AsyncPersistMode
}

// smallestStream is where ensureStream stops halving a reservation.
const smallestStream = 2 << 20

// ensureStream creates or updates a stream. When the store has no room left
// for its reservation, it makes do with half, down to smallestStream: a
// capability with a small stream is better than one that can't be published
// to. Making a stream smaller loses nothing: those that hold events discard
// new messages and never old ones.
func (t *Topology) ensureStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	cfg.Storage = jetstream.FileStorage
	cfg.Replicas = t.set.Replicas
	cfg.Metadata = maps.Clone(cfg.Metadata)
	for {
		err := patiently(ctx, func(ctx context.Context) error {
			if cfg.PersistMode != jetstream.DefaultPersistMode {
				// It can't be changed: a stream of an earlier version keeps its own.
				if s, err := t.js.Stream(ctx, cfg.Name); err == nil {
					cfg.PersistMode = s.CachedInfo().Config.PersistMode
				}
			}
			_, err := t.js.CreateOrUpdateStream(ctx, cfg)
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				// Another replica made it between our two requests.
				_, err = t.js.UpdateStream(ctx, cfg)
			}
			return err
		})
		killpoint.Here(killpoint.StreamMade)
		if err == nil {
			return nil
		}
		var api *jetstream.APIError
		if !errors.As(err, &api) || !insufficient(api.ErrorCode) {
			return fmt.Errorf("stream %s: %w", cfg.Name, err)
		}
		if t.serves(ctx, cfg) {
			return nil
		}
		if cfg.MaxBytes/2 < smallestStream {
			return fmt.Errorf("stream %s: %w: make room on the disk, or raise BACKSTOP_STORE_MAX", cfg.Name, err)
		}
		cfg.MaxBytes /= 2
	}
}

// serves tells whether the stream exists and takes the subjects that it should.
// When the store has shrunk below what is reserved, as beside other data on
// the disk, no stream can be brought up to date; those that exist go on as
// they are, which is better than not to start.
func (t *Topology) serves(ctx context.Context, cfg jetstream.StreamConfig) bool {
	stream, err := t.js.Stream(ctx, cfg.Name)
	return err == nil && slices.Equal(stream.CachedInfo().Config.Subjects, cfg.Subjects)
}

// How long one request to make or update something may take before it is made
// again, at first and at most, and how long all of them may. When two replicas
// make the same stream at once on a cluster, the server may answer neither (seen
// with 2.15.2); the next request finds it made. On a disk that takes a third of
// a second for each sync the first is too short, and each repetition makes the
// server's queue longer. A bound for the whole topology instead of one for each
// part of it kept serve from ever starting there (rig, seed 8344).
const (
	tryFor     = 2 * time.Second
	tryForMost = 10 * time.Second
	partFor    = 30 * time.Second
)

// patiently repeats do while it gets no answer, until ctx ends, or for partFor.
func patiently(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, partFor)
	defer cancel()
	for wait := tryFor; ; wait = min(2*wait, tryForMost) {
		try, cancel := context.WithTimeout(ctx, wait+rand.N(wait/2)) //nolint:gosec // spreads replicas
		err := do(try)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
}

// insufficient tells whether the broker refused a reservation: 10023
// insufficient resources, 10028 memory, 10047 storage.
func insufficient(code jetstream.ErrorCode) bool {
	return code == 10023 || code == 10028 || code == 10047
}
