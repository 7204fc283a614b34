package streams

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams/bucket"
	"backstop/streams/killpoint"
)

// CallbackKey names one event at its endpoint in the callbacks bucket:
// <capability>.<app>.<origin>.
type CallbackKey string

// CallbackKey returns the event's key in the callbacks bucket.
func (e Event) CallbackKey() CallbackKey {
	return CallbackKey(e.Capability + "." + e.App + "." + e.Origin)
}

// Split returns the parts of the key.
func (k CallbackKey) Split() (id EndpointID, origin string) {
	id.Capability, origin, _ = strings.Cut(string(k), ".")
	id.App, origin, _ = strings.Cut(origin, ".")
	return id, origin
}

// Awaited is an entry of the callbacks bucket: the callback that an app owes
// for one delivered event, or that it has come.
type Awaited struct {
	// Due is until when the app must call back.
	Due time.Time `json:"due,omitzero"`
	// Received is when it called back. Zero: not yet. The entry stays for a
	// while then, so that a delivery which is settled only now, or which is
	// repeated, demands no second callback.
	Received time.Time `json:"received,omitzero"`
	// Retry says that the event is to be delivered again when Due is over.
	Retry bool `json:"retry,omitempty"`

	// What was delivered; see Event. The endpoint and the origin are in the key.
	ID           string    `json:"id,omitempty"`
	PublishedAt  time.Time `json:"publishedAt,omitzero"`
	Hops         int       `json:"hops,omitempty"`
	Redeliveries int       `json:"redeliveries,omitempty"`
	TraceParent  string    `json:"traceparent,omitempty"`
	TraceState   string    `json:"tracestate,omitempty"`
	// Payload is kept when Retry. It stands behind the JSON, on a line of its
	// own: byte for byte, and no larger than the event was.
	Payload []byte `json:"-"`
}

// Again returns the event as it is to be delivered once more: one redelivery
// on, and with all its attempts before it, since those that led to the
// delivery have done their work.
func (a Awaited) Again(key CallbackKey) Event {
	id, origin := key.Split()
	return Event{
		ID: a.ID, Origin: origin, EndpointID: id, Payload: a.Payload, PublishedAt: a.PublishedAt,
		Hops: a.Hops, Redeliveries: a.Redeliveries + 1, TraceParent: a.TraceParent, TraceState: a.TraceState,
	}
}

func (a Awaited) encode() ([]byte, error) {
	value, err := json.Marshal(a)
	if err != nil || len(a.Payload) == 0 {
		return value, err
	}
	return append(append(value, '\n'), a.Payload...), nil
}

func decodeAwaited(value []byte) (Awaited, error) {
	var a Awaited
	head, payload, _ := bytes.Cut(value, []byte{'\n'})
	if err := json.Unmarshal(head, &a); err != nil {
		return Awaited{}, err
	}
	a.Payload = payload
	return a, nil
}

// Callbacks takes what apps send to their callback URLs, and keeps account of
// the callbacks that are awaited.
type Callbacks struct {
	js jetstream.JetStream
	kv jetstream.KeyValue
}

// NewCallbacks returns the callbacks of js. The error says that the bucket is
// missing, which means that Topology.Ensure was not called.
func NewCallbacks(ctx context.Context, js jetstream.JetStream) (*Callbacks, error) {
	kv, err := js.KeyValue(ctx, CallbacksBucket)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", CallbacksBucket, err)
	}
	return &Callbacks{js: js, kv: kv}, nil
}

// Await records that the event was delivered and that its app must call back
// until due. A callback that was faster stays as it is, and so does the record
// of the same delivery: repeating one that was settled by half changes
// nothing. A later delivery of the event replaces an earlier one.
func (s *Callbacks) Await(ctx context.Context, e Event, due time.Time, retry bool) error {
	a := Awaited{
		Due: due.UTC(), Retry: retry,
		ID: e.ID, PublishedAt: e.PublishedAt.UTC(), Hops: e.Hops, Redeliveries: e.Redeliveries,
	}
	if retry {
		a.Payload, a.TraceParent, a.TraceState = e.Payload, e.TraceParent, e.TraceState
	}
	return s.put(ctx, e.CallbackKey(), a, func(now Awaited) bool {
		return !now.Received.IsZero() || now.Hops >= e.Hops
	})
}

// Accept publishes a result, once for its origin, and with awaited records
// that the callback has come, whether or not its delivery is recorded yet.
// Doing it again changes nothing; after an error it has to be done again.
func (s *Callbacks) Accept(ctx context.Context, r Result, awaited bool) error {
	if !s.js.Conn().IsConnected() { // it would be sent some time later, unasked
		return fmt.Errorf("publish a result of %s: %w", r.EndpointID, nats.ErrDisconnected)
	}
	if _, err := s.js.PublishMsg(ctx, r.Msg()); err != nil {
		return fmt.Errorf("publish a result of %s: %w", r.EndpointID, err)
	}
	killpoint.Here(killpoint.ResultStored)
	if !awaited {
		return nil
	}
	key := Event{EndpointID: r.EndpointID, Origin: r.Origin}.CallbackKey()
	return s.put(ctx, key, Awaited{Received: time.Now().UTC()}, func(now Awaited) bool { return !now.Received.IsZero() })
}

// put writes the key's entry unless there is one now for which keep answers true.
func (s *Callbacks) put(ctx context.Context, key CallbackKey, a Awaited, keep func(Awaited) bool) error {
	value, err := a.encode()
	if err != nil {
		return err
	}
	// Nearly always the key is new, which needs no reading first.
	if _, err := bucket.Write(ctx, s.kv, string(key), value, 0); err == nil {
		return nil
	}
	_, _, err = bucket.Swap(ctx, s.kv, string(key), func(old []byte) ([]byte, error) {
		// A value that is no entry is overwritten: nobody could mean it.
		if now, err := decodeAwaited(old); old != nil && err == nil && keep(now) {
			return old, nil
		}
		return value, nil
	})
	return err
}

// Get returns an entry and its revision; 0 means that there is none. An entry
// that can't be read is an error with a revision.
func (s *Callbacks) Get(ctx context.Context, key CallbackKey) (Awaited, uint64, error) {
	value, revision, err := bucket.Read(ctx, s.kv, string(key))
	if err != nil || revision == 0 {
		return Awaited{}, 0, err
	}
	a, err := decodeAwaited(value)
	if err != nil {
		return Awaited{}, revision, fmt.Errorf("entry %q of bucket %s can't be read: %w", key, CallbacksBucket, err)
	}
	return a, revision, nil
}

// Forget removes an entry that has the given revision now; bucket.ErrConflict
// says that it has changed.
func (s *Callbacks) Forget(ctx context.Context, key CallbackKey, revision uint64) error {
	return bucket.Erase(ctx, s.kv, string(key), revision, markerTTL)
}

// Watch calls apply for every entry, and with nil when one is gone, until ctx
// ends. It survives the loss of the connection, and returns an error only when
// the connection was closed for good.
func (s *Callbacks) Watch(ctx context.Context, log *slog.Logger, apply func(CallbackKey, *Awaited)) error {
	return bucket.Watch(ctx, s.kv, log, func(c bucket.Change) {
		key := CallbackKey(c.Key)
		switch _, origin := key.Split(); {
		case c.Loaded:
		case c.Removed:
			apply(key, nil)
		case origin == "":
			log.Error("a key of the callbacks bucket names no event; it is ignored", "key", c.Key)
		default:
			a, err := decodeAwaited(c.Value)
			if err != nil {
				log.Error("an entry of the callbacks bucket can't be read; it is ignored", "key", c.Key, "error", err)
				apply(key, nil)
				return
			}
			apply(key, &a)
		}
	})
}
