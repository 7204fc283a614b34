package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"backstop/cmd/backstop/ops"
	"backstop/streams"
)

// decisionProblem says why a decision was not carried out to the end.
func decisionProblem(err error) *Problem {
	switch {
	case errors.Is(err, streams.ErrNoStream):
		return problem(http.StatusConflict, codeNoStream, "no app takes events of this capability any more; apply a manifest that declares it")
	case errors.Is(err, streams.ErrTooLarge):
		return problem(http.StatusConflict, codeTooLarge, "the event is larger than the stream takes now")
	case errors.As(err, new(*ops.StoppedError)) && errors.Is(err, context.Canceled):
		return problem(http.StatusServiceUnavailable, codeUnavailable, "stopped on the way; the same request goes on").with("Retry-After", "2")
	default:
		return problemOf(err)
	}
}

// extend gives an answer more time than others have.
func extend(w http.ResponseWriter, by time.Duration) {
	control := http.NewResponseController(w)
	// Neither can fail with our own server; with another, its timeouts hold.
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Now().Add(by))
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// untilStop returns a context that also ends when the server stops.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-ctx.Done():
		case <-s.stopping:
			cancel()
		}
	}()
	return ctx, cancel
}
