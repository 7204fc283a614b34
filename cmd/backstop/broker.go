package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded"
)

// broker is the NATS that the pipeline runs on: our own, or an external one.
type broker struct {
	embedded *embedded.Server // nil for an external one
	nc       *nats.Conn
	calls    *nats.Conn // of its own, so that no call queues behind events
	js       jetstream.JetStream
	url      string
	lost     chan error            // one, when a connection is closed for good
	refusal  atomic.Pointer[error] // why it could not be connected last
}

// pipelineRequestTimeout bounds what the pipeline asks of JetStream, but for
// publishes. Short, because whatever asks asks again, and a request that went
// down with a broker is never answered: an event waits for no longer than that.
const pipelineRequestTimeout = 4 * time.Second

// openBroker starts the embedded server, or connects to an external NATS,
// for which it waits as long as it takes: a pipeline that is started before
// its NATS is no error.
func openBroker(ctx context.Context, cfg Config, log *slog.Logger) (*broker, error) {
	options, err := connectOptions(cfg)
	if err != nil {
		return nil, err
	}
	b := &broker{lost: make(chan error, 1)}
	options = append(options,
		nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.IgnoreAuthErrorAbort(), nats.ReconnectWait(500*time.Millisecond),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("lost the connection to NATS; events wait until it is back", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("connected to NATS again", "url", nc.ConnectedUrlRedacted()) }),
		// Of a login that is refused at the start, nats.go's LastError knows nothing.
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { b.refusal.Store(&err) }),
		nats.ClosedHandler(func(nc *nats.Conn) {
			select {
			case b.lost <- nc.LastError():
			default:
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			log.Warn("NATS reports an error", "error", err)
		}),
	)
	connect := func() (*nats.Conn, error) { return nats.Connect(cfg.NATSURL, append(options, tlsOptions(cfg)...)...) }
	if cfg.NATSURL == "" {
		makeRoomForSyncs(cfg)
		if err := b.embed(ctx, cfg, log); err != nil {
			return nil, err
		}
		connect = func() (*nats.Conn, error) { return b.embedded.Connect(options...) }
	} else {
		b.url = redact(cfg.NATSURL)
	}
	if b.nc, err = connect(); err == nil {
		b.calls, err = connect()
	}
	if err != nil {
		b.close(log)
		return nil, err
	}
	b.js, err = jetstream.New(b.nc, jetstream.WithDefaultTimeout(pipelineRequestTimeout))
	if err != nil {
		b.close(log)
		return nil, err
	}
	return b, nil
}

// untilLost waits for the end of ctx, or returns an error when a connection is
// closed for good, which nats.go does at what it doesn't know how to mend, such as
// a line that is too long for the server. Nothing works without it, while the
// process would seem to: whoever supervises it has to start it again.
func (b *broker) untilLost(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-b.lost:
		return fmt.Errorf("the connection to NATS was closed for good: %w", cmp.Or(err, nats.ErrConnectionClosed))
	}
}

// syncProcs is how many of Go's processors are added for goroutines that wait
// for the disk. A processor that is in fsync is only handed on when the runtime
// notices, and with sync always the embedded server keeps several there: on two
// cores, six processors delivered 7,000 events a second over eight capabilities
// where two delivered 4,500.
const syncProcs = 4

// makeRoomForSyncs adds syncProcs, unless GOMAXPROCS says otherwise.
func makeRoomForSyncs(cfg Config) {
	if cfg.Sync == embedded.SyncAlways && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.NumCPU() + syncProcs)
	}
}

func (b *broker) embed(ctx context.Context, cfg Config, log *slog.Logger) (err error) {
	tlsConfig, err := serverTLS("BACKSTOP_NATS_CERT", cfg.EmbeddedCert, cfg.EmbeddedKey, log)
	if err != nil {
		return err
	}
	b.embedded, err = embedded.Start(ctx, embedded.Config{
		DataDir: cfg.DataDir, Addr: string(cfg.EmbeddedAddr), Token: cfg.EmbeddedToken, TLS: tlsConfig,
		Sync: string(cfg.Sync), StoreMax: int64(cfg.StoreMax), AcceptLoss: cfg.AcceptLoss, Logger: log,
	})
	if err != nil {
		return err
	}
	if b.url = b.embedded.ClientURL(); b.url == "" {
		b.url = "in-process"
	}
	return nil
}

func (b *broker) storeBytes() int64 {
	if b.embedded == nil {
		return 0
	}
	return b.embedded.StoreMax()
}

// maxMsgSize is the most that an event may have with its headers, so that a
// dead letter has room for its own below max_payload.
func maxMsgSize(maxPayload int64) int32 {
	return int32(min(max(maxPayload-64<<10, maxPayload/2), 1<<20)) //nolint:gosec // at most 1 MiB
}

// untilReachable runs do until it succeeds, as long as what fails is the
// connection, or a cluster that is just starting; anything else is returned at
// once. do bounds what it asks for: a deadline here would take the place of
// JetStream's own timeout in each of its requests, and one that went down with a
// server was waited for for 20 s.
func (b *broker) untilReachable(ctx context.Context, log *slog.Logger, what string, do func(context.Context) error) error {
	for {
		if err := b.untilConnected(ctx, log); err != nil {
			return err
		}
		err := do(ctx)
		switch {
		case err == nil, ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case b.nc.IsConnected() && !unreachable(err):
			return fmt.Errorf("can't %s: %w", what, err)
		}
		log.Warn("NATS can't be used yet, trying again", "url", b.url, "what", what, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// untilConnected waits for the connection, and says so at once and then every
// ten seconds.
func (b *broker) untilConnected(ctx context.Context, log *slog.Logger) error {
	const look, tell = 100 * time.Millisecond, 10 * time.Second
	var told time.Time
	for !b.nc.IsConnected() {
		if now := time.Now(); now.Sub(told) >= tell {
			log.Warn("NATS can't be reached yet, waiting for it", "url", b.url, "error", b.whyUnconnected())
			told = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
	}
	return nil
}

func (b *broker) whyUnconnected() error {
	if err := b.nc.LastError(); err != nil {
		return err
	}
	if err := b.refusal.Load(); err != nil {
		return *err
	}
	return errors.New("it doesn't answer")
}

func unreachable(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed) || unsettled(err)
}

// JetStream's codes for a cluster without a leader, and for one that can't
// place a stream.
const (
	noLeader = 10008
	noPlace  = 10005
)

// unsettled tells whether an error says that a cluster is just starting: it has
// no leader, or its leader has not heard from all servers. A stream that has no
// place for another reason won't have one in a second either.
func unsettled(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	return api.ErrorCode == noLeader || api.ErrorCode == noPlace && strings.Contains(api.Description, "offline")
}

// close ends the connection and then the embedded server.
func (b *broker) close(log *slog.Logger) {
	for _, nc := range []*nats.Conn{b.calls, b.nc} {
		if nc != nil {
			nc.Close()
		}
	}
	if b.embedded != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		b.embedded.Shutdown(ctx)
		log.Debug("the embedded NATS server has stopped")
	}
}
