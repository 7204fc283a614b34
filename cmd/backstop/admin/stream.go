package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"backstop/streams"
)

// Server-sent events.
const (
	// maxStreams is how many clients may listen at once: each costs a consumer
	// of the broker's.
	maxStreams = 64
	// heartbeat keeps what stands between us from closing a silent connection,
	// and finds clients that have gone.
	heartbeat = 15 * time.Second
	// eventTimeout is how long a client may take for one event.
	eventTimeout = 10 * time.Second
	// streamLife is how long a stream lasts. The client comes back by itself,
	// and has to show then that it still may.
	streamLife = time.Hour
	// reconnectMs is how soon a browser comes back when it lost us.
	reconnectMs = 2000
)

// streamNotices sends notices as they happen, each with its place in the
// stream as the id: a client that comes back with Last-Event-ID misses none
// that the stream still holds.
func (s *Server) streamNotices(w http.ResponseWriter, r *request) error {
	after, err := startOf(r)
	if err != nil {
		return err
	}
	select {
	case s.listeners <- struct{}{}:
		defer func() { <-s.listeners }()
	default:
		return unavailable("as many clients listen already as may")
	}
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()

	notices := make(chan streams.Notice)
	ended := make(chan struct{})
	var why error // once ended is closed
	go func() {
		defer close(ended)
		why = r.backend.Ops.Notices().Follow(ctx, streams.NoticeFilter{After: after}, func(n streams.Notice) error {
			select {
			case notices <- n:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	defer func() {
		cancel()
		<-ended
	}()

	events := newEventWriter(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy that buffers would hold them back
	w.WriteHeader(http.StatusOK)
	if err := events.send("retry: %d\n: connected\n\n", reconnectMs); err != nil || r.Method == http.MethodHead {
		return nil // the client has gone, which is its good right
	}
	beat, over := time.NewTicker(heartbeat), time.NewTimer(streamLife)
	defer beat.Stop()
	defer over.Stop()
	for {
		select {
		case n := <-notices:
			err = events.notice(n)
		case <-beat.C:
			err = events.send(": heartbeat\n\n")
		case <-over.C:
			return nil
		case <-ended:
			if why != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("a stream of notices ended", "error", why)
			}
			return nil // the client comes back by itself
		}
		if err != nil {
			return nil // as above
		}
	}
}

// startOf returns the sequence behind which a client wants to begin: that of
// its header when a browser comes back by itself, of the parameter when a page
// knows what it shows already, and otherwise the last there is, so that nothing
// is missed from the moment when it hears of being connected.
func startOf(r *request) (uint64, error) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.param("after")
	}
	if text == "" {
		return r.backend.Ops.Notices().Last(r.Context())
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, refusal(http.StatusBadRequest, codeBadQuery, "Last-Event-ID, after: %q: want the id of an event", text)
	}
	return n, nil
}

// eventWriter writes server-sent events, each at once.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func newEventWriter(w http.ResponseWriter) *eventWriter {
	e := &eventWriter{w: w, control: http.NewResponseController(w)}
	_ = e.control.SetReadDeadline(time.Time{}) // as extend says
	return e
}

func (e *eventWriter) notice(n streams.Notice) error {
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return e.send("id: %d\ndata: %s\n\n", n.Sequence, data)
}

func (e *eventWriter) send(format string, args ...any) error {
	_ = e.control.SetWriteDeadline(time.Now().Add(eventTimeout)) // as extend says
	if _, err := fmt.Fprintf(e.w, format, args...); err != nil {
		return err
	}
	return e.control.Flush()
}
