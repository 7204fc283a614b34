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

// headersTooLarge is JetStream's code for headers of more than 64 KiB.
const headersTooLarge = 10097

func storeError(api *jetstream.APIError) error {
	switch api.ErrorCode {
	case 10002: // resource limits exceeded for account: so the embedded server refuses while its disk is full
		return fmt.Errorf("%w: %w; the disk of NATS is full, or the account's share of it: try again when there is room", ErrStreamFull, api)
	case 10077, 10023, 10047: // stream store failed (maximum bytes exceeded), insufficient resources, storage
		return fmt.Errorf("%w: %w; try again when apps have caught up", ErrStreamFull, api)
	case jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return fmt.Errorf("%w: %w; at most %d KiB of JSON", ErrTooLarge, api, MaxPayload>>10)
	default:
		return api
	}
}
