package dispatcher

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"backstop/streams"
)

// The headers of a request beside the signatures, in canonical form.
const (
	headerRequestID   = "X-Request-Id"
	headerTimeoutMs   = "X-Timeout-Ms"
	headerApp         = "X-Platform-App"
	headerCapability  = "X-Platform-Capability"
	headerAttempt     = "X-Platform-Attempt"
	headerTraceParent = "Traceparent"
	headerTraceState  = "Tracestate"
)

// maxHeaders is how many headers a request has, at most, without the
// endpoint's own: what makes a map that needn't grow, and isn't twice the size.
const maxHeaders = 14

// request makes the request of a call. The error says that the URL is not one.
func (p *Poster) request(ctx context.Context, c Call, now time.Time) (*http.Request, *outgoing, error) {
	target, err := p.targets.get(c.Endpoint.URL)
	if err != nil {
		return nil, nil, err
	}
	h := c.Header // made for this attempt by the stages before
	if h == nil {
		h = make(http.Header, maxHeaders)
	}
	h["Content-Type"], h["User-Agent"] = p.json, p.userAgent
	w := headerWriter{h, make([]string, 0, 7)}
	w.set(headerRequestID, c.Event.ID)
	w.set(headerApp, c.Endpoint.App)
	w.set(headerCapability, c.Endpoint.Capability)
	w.set(headerAttempt, strconv.Itoa(c.Attempt))
	if deadline, ok := ctx.Deadline(); ok {
		w.set(headerTimeoutMs, strconv.FormatInt(max((deadline.Sub(now)+time.Millisecond-1).Milliseconds(), 1), 10))
	}
	if traceable(c.Event.TraceParent) {
		w.set(headerTraceParent, c.Event.TraceParent)
		if traceable(c.Event.TraceState) {
			w.set(headerTraceState, c.Event.TraceState)
		}
	}
	for name, value := range c.Endpoint.Headers {
		addOwn(h, name, value)
	}

	out := &outgoing{payload: c.Event.Payload}
	out.trace.GotConn, out.trace.WroteRequest = out.connected, out.wrote
	req := target.WithContext(httptrace.WithClientTrace(ctx, &out.trace))
	req.Header = h
	if len(out.payload) == 0 {
		req.Body = http.NoBody
		return req, out, nil
	}
	req.ContentLength = int64(len(out.payload))
	req.Body, err = out.open()
	req.GetBody = out.again
	return req, out, err
}

func traceable(s string) bool { return s != "" && len(s) <= streams.MaxTrace && validValue(s) }

// outgoing is a payload on its way.
type outgoing struct {
	payload []byte
	trace   httptrace.ClientTrace
	// begun is set when there is a connection to write to.
	begun atomic.Bool
	// written is how often all of the request was written.
	written atomic.Int32
}

func (o *outgoing) connected(httptrace.GotConnInfo) { o.begun.Store(true) }

func (o *outgoing) wrote(info httptrace.WroteRequestInfo) {
	if info.Err == nil {
		o.written.Add(1)
	}
}

// open returns the payload to read. It has to be of a type that net/http knows
// to be in memory, or else the headers go out in a packet of their own.
func (o *outgoing) open() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(o.payload)), nil
}

var errRefusedTwice = errors.New("the app's server claims a second time that it did not process the request")

// again returns the payload to be sent once more, which net/http asks for when
// it is sure that nobody has seen the request: the connection was dead before
// a byte was written, or an HTTP/2 server says so. (Also for a request with an
// Idempotency-Key; that is why addOwn drops it.) A server is believed once: a
// broken one could have one attempt repeated seven times.
func (o *outgoing) again() (io.ReadCloser, error) {
	if o.written.Load() > 1 {
		return nil, errRefusedTwice
	}
	return o.open()
}

func (o *outgoing) progress() progress {
	if o.begun.Load() {
		return sent
	}
	return unsent
}

// maxTargets bounds the URLs that are kept in parsed form, about 1 KB each.
const maxTargets = 16_384

// targets keeps a request for each URL to copy from, which saves parsing it
// every time.
type targets struct {
	mu    sync.RWMutex
	byURL map[string]*http.Request
}

func (t *targets) get(url string) (*http.Request, error) {
	t.mu.RLock()
	req := t.byURL[url]
	t.mu.RUnlock()
	if req != nil {
		return req, nil
	}
	req, err := http.NewRequest(http.MethodPost, url, nil) //nolint:noctx // each copy has its own
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byURL == nil || len(t.byURL) >= maxTargets {
		// Starting over costs each URL one parsing, half a microsecond.
		t.byURL = make(map[string]*http.Request)
	}
	t.byURL[url] = req
	return req, nil
}
