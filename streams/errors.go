package streams

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Errors of publishing, and some of calls too, to be told apart with errors.Is.
var (
	// ErrNoStream: no app declares the capability as async, so nothing would
	// ever read the event.
	ErrNoStream = errors.New("no app takes events of this capability")
	// ErrStreamFull: the stream has reached its limit, or the disk is full, and
	// nothing was stored.
	ErrStreamFull = errors.New("the stream is full")
	// ErrTooLarge: the event is larger than the stream takes, or the payload
	// of a call larger than MaxPayload.
	ErrTooLarge = errors.New("the payload is too large")
	// ErrNoSuchName: a dead letter of an app that can't exist can't be replayed.
	ErrNoSuchName = errors.New("no app can have the name that it was published for; publish its payload for the right one, and discard it")
	// ErrUnavailable: NATS or JetStream doesn't answer; the event may or may
	// not have been stored, the call may or may not have been made. Publish or
	// call again with the same id.
	ErrUnavailable = errors.New("NATS doesn't answer")
)

// publishError says what an error of a JetStream publish means and what to do.
func publishError(err error, id EndpointID) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, jetstream.ErrStreamNotFound):
		return fmt.Errorf("publish %s: %w (apply a manifest that declares it with \"async\": true)", id, ErrNoStream)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("publish %s: %w: at most %d KiB of JSON", id, ErrTooLarge, MaxPayload>>10)
	case errors.As(err, &api):
		return fmt.Errorf("publish %s: %w", id, storeError(api))
	default:
		return fmt.Errorf("publish %s: %w: %w (publishing again with the same id is safe)", id, ErrUnavailable, err)
	}
}

// NeverFits tells whether a publish failed because of what the message is, so that
// the same message will fail each time: it, or its headers, are larger than
// NATS or the stream takes.
func NeverFits(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum || api.ErrorCode == headersTooLarge
	}
	return errors.Is(err, nats.ErrMaxPayload)
}

// StreamFull tells whether a publish failed because the stream has reached its
// own limit.
func StreamFull(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == streamFull
}

// LacksRoom tells whether something was not stored for want of room, in the
// stream or in all of NATS.
func LacksRoom(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == accountFull || api.ErrorCode == serverFull || api.ErrorCode == streamFull)
}

// JetStream's codes, as far as the library has no names for them.
const (
	accountFull     = 10002 // resource limits exceeded for account: so the embedded server refuses while its disk is full
	serverFull      = 10023 // insufficient resources
	storageFull     = 10047 // insufficient storage resources
	streamFull      = 10077 // stream store failed: maximum bytes exceeded
	headersTooLarge = 10097 // headers of more than 64 KiB
)

func storeError(api *jetstream.APIError) error {
	switch api.ErrorCode {
	case accountFull:
		return fmt.Errorf("%w: %w; the disk of NATS is full, or the account's share of it: try again when there is room", ErrStreamFull, api)
	case streamFull, serverFull, storageFull:
		return fmt.Errorf("%w: %w; try again when apps have caught up", ErrStreamFull, api)
	case jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return fmt.Errorf("%w: %w; at most %d KiB of JSON", ErrTooLarge, api, MaxPayload>>10)
	default:
		return api
	}
}
