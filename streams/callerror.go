package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Errors of a call that got no reply, to be told apart with errors.Is. One
// whose connection to NATS is lost is ErrUnavailable, one whose time is over
// context.DeadlineExceeded, and one that its caller gave up context.Canceled.
var (
	// ErrNoBackstop: no replica of Backstop runs on this NATS; the broker says
	// so at once. The app was not asked.
	ErrNoBackstop = errors.New("no Backstop runs on this NATS")
	// ErrBadReply: something else than Backstop answers calls on this NATS.
	ErrBadReply = errors.New("the reply to a call can't be read")
)

// Errors that Backstop answered a call with, each for one code. A *CallError
// matches the one of its code with errors.Is, unless the code is the app's own.
// CodePayloadTooLarge is ErrTooLarge.
var (
	ErrAppUnavailable   = errors.New("the app did not answer, and nothing stands in for it")
	ErrAppBusy          = errors.New("the app has as many requests as it may have, and nothing stands in for it")
	ErrEndpointDisabled = errors.New("the endpoint is switched off")
	ErrNoRoute          = errors.New("no app declares this webhook")
	ErrNotACall         = errors.New("this webhook takes events only")
	ErrBadPayload       = errors.New("the payload is not JSON")
	ErrBadTimeout       = errors.New(HeaderTimeoutMs + " is not a number of milliseconds")
	ErrDeadlineExceeded = errors.New("too little time was left to ask anybody")
	ErrInternal         = errors.New("a fault of Backstop itself")
)

// CallError is a reply that says why there is no answer: Reply.Error, with
// what is needed to act on it. Get it with errors.As, and compare with the
// errors above by errors.Is.
type CallError struct {
	// Code is one of the Code constants, or the app's own when Source is SourceApp.
	Code string
	// Message is fit to be shown to a person. With SourceApp it is the app's
	// own text, which nobody has checked.
	Message string
	// Source is SourceApp when the app itself said no.
	Source Source
	// Reason says why it is not the app's own answer; empty when it is.
	Reason string
	// RequestID is the call's id, which the app saw as X-Request-ID.
	RequestID string
}

// Error quotes what an app wrote, so that it can't forge lines of a log.
func (e *CallError) Error() string {
	switch {
	case e.Source == SourceApp:
		return fmt.Sprintf("the app answered %q (%q)", e.Message, e.Code)
	case e.Reason == "":
		return fmt.Sprintf("%s (%s)", e.Message, e.Code)
	default:
		return fmt.Sprintf("%s (%s, %s)", e.Message, e.Code, e.Reason)
	}
}

// Unwrap returns the error of the code. An app's code has none, be it spelled
// like one of Backstop's.
func (e *CallError) Unwrap() error {
	if e.Source == SourceApp {
		return nil
	}
	switch e.Code {
	case CodeAppUnavailable:
		return ErrAppUnavailable
	case CodeAppBusy:
		return ErrAppBusy
	case CodeEndpointDisabled:
		return ErrEndpointDisabled
	case CodeNoRoute:
		return ErrNoRoute
	case CodeNotACall:
		return ErrNotACall
	case CodeBadPayload:
		return ErrBadPayload
	case CodePayloadTooLarge:
		return ErrTooLarge
	case CodeBadTimeout:
		return ErrBadTimeout
	case CodeDeadlineExceeded:
		return ErrDeadlineExceeded
	case CodeInternal:
		return ErrInternal
	default:
		return nil
	}
}

// requestError says what it means that a request got no reply.
func requestError(err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: %w (start backstop serve, or mend NATS_URL)", ErrNoBackstop, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w for this NATS: %w", ErrTooLarge, err)
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no reply in time: %w", err)
	default:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
}
