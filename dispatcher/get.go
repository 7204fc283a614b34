package dispatcher

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"time"
)

// Answer is what came of a Get.
type Answer struct {
	// Status is the answer's HTTP status; 0 when there was none.
	Status int
	// Body is the first 64 KiB of the answer's body.
	Body []byte
	// Cut says that the body was longer.
	Cut bool
	// Duration is how long it took, until the last byte that was read.
	Duration time.Duration
	// Reason says why there is no whole answer: ReasonTimeout,
	// ReasonConnection, ReasonBlockedAddress, or ReasonLocal for a fault on our
	// side. Empty when there is one, whatever its status.
	Reason Reason
	// Err is the same for a person, in one line. Nil when there is an answer.
	Err error
}

// Get asks for what is at the URL, once and unsigned, with the guarantees of
// Post: the same guard, no redirects, no proxy, no compression, a bounded body,
// and back by ctx's deadline. accept is the Accept header.
func (p *Poster) Get(ctx context.Context, url, accept string) Answer {
	start := time.Now()
	var out outgoing
	out.trace.GotConn = out.connected
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &out.trace), http.MethodGet, url, nil)
	if err != nil {
		return Answer{Reason: ReasonConnection, Err: errors.New("the URL can't be used; correct the app's manifest")}
	}
	req.Header["User-Agent"], req.Header["Accept"] = p.userAgent, []string{accept}
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return unanswered(failed(ctx, err, out.progress(), time.Since(start)), time.Since(start))
	}
	buf := p.bodies.get()
	defer p.bodies.free.Put(buf)
	a := readAnswer(resp, buf)
	if !a.whole() {
		answer := unanswered(failed(ctx, a.cut, answered, time.Since(start)), time.Since(start))
		answer.Status = a.status
		return answer
	}
	return Answer{
		Status: a.status, Body: append([]byte(nil), a.body...), Cut: len(*buf) > len(a.body),
		Duration: time.Since(start),
	}
}

// unanswered keeps of an outcome what is of use without an event. Its error may
// quote what the app sent.
func unanswered(o Outcome, took time.Duration) Answer {
	return Answer{Reason: o.Reason, Err: errors.New(oneLine(o.Err.Error())), Duration: took}
}
