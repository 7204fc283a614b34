package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// answer is what came back of a request, as far as it came.
type answer struct {
	status int
	header http.Header
	// body is what was read of it; whoever read it uses the bytes again.
	body []byte
	// cut is why the body ended before its end. Nil when it didn't, or when
	// it was only longer than is read.
	cut error
}

// whole tells whether all is there that classify looks at. A status that says
// enough by itself stands even if the connection broke behind it.
func (a answer) whole() bool {
	return a.cut == nil || a.status < 200 || a.status > 299 || a.status == http.StatusAccepted
}

// MaxLoggedBody is how much of a bad answer is kept for the delivery log.
const MaxLoggedBody = 256

// classify says what an answer means: the table of the contract's section 6,
// for events, and for calls if sync is true.
func classify(sync bool, a answer, now time.Time) Outcome {
	out := Outcome{Status: a.status, Requested: true}
	switch s := a.status; {
	case s >= 200 && s <= 299:
		return good(sync, a, out)
	case s >= 300 && s <= 399:
		out.Verdict, out.Effect = Rejected, Failure
	case s == 400, s == 405, s == 406, s == 411, s == 413, s == 414, s == 415, s == 422, s == 431, s == 501:
		out.Verdict, out.Effect = Rejected, NotCounted
	case s == 410:
		out.Verdict, out.Effect, out.Gone = Rejected, NotCounted, true
	case s == 408, s == 425:
		out.Verdict, out.Effect = Retry, Failure
	case s == 429:
		out.Verdict, out.Effect, out.PauseEndpoint = Retry, NotCounted, true
		out.RetryAfter = parseRetryAfter(a.header.Get("Retry-After"), now)
	case s >= 400 && s <= 499: // 401, 403, 404 and the rest
		out.Verdict, out.Effect, out.Misconfigured = Retry, NotCounted, true
	case s == 503:
		out.Verdict, out.Effect = Retry, Failure
		out.RetryAfter = parseRetryAfter(a.header.Get("Retry-After"), now)
	default: // 5xx, and what HTTP doesn't know: a server that is broken
		out.Verdict, out.Effect = Retry, Failure
	}
	out.Reason = ReasonStatus
	if a.status == http.StatusTooManyRequests {
		out.Reason = ReasonRateLimited
	}
	out.Body = logged(a.body)
	out.Err = StatusError(a.status)
	return out
}

// good judges a 2xx answer, by its body.
func good(sync bool, a answer, out Outcome) Outcome {
	if a.status == http.StatusAccepted {
		out.Verdict, out.Effect, out.Accepted = Delivered, Success, true
		return out
	}
	r, agreed := parseReply(a.body)
	switch {
	case agreed && r.success:
		out.Verdict, out.Effect, out.Data = Delivered, Success, r.data
	case agreed:
		out.Verdict, out.Effect = Rejected, Success // the app works; it said no
		if r.err.Retryable {
			out.Verdict = Retry
		}
		out.Reason, out.AppError, out.Body = ReasonRejected, r.err, logged(a.body)
		out.Err = fmt.Errorf("the app said no: %s: %s", oneLine(r.err.Code), oneLine(r.err.Message))
	case !sync:
		out.Verdict, out.Effect = Delivered, Success
	default:
		out.Verdict, out.Effect, out.Reason = Rejected, Failure, ReasonBadResponse
		out.Body = logged(a.body)
		out.Err = errors.New(`the app answered without the agreed JSON; it has to be {"success":true,"data":…} or {"success":false,"error":{…}}`)
	}
	return out
}

// logged returns the first bytes of a body, copied.
func logged(body []byte) []byte {
	if len(body) == 0 {
		return nil
	}
	return append([]byte(nil), body[:min(len(body), MaxLoggedBody)]...)
}

// StatusError says in words which status the app answered.
func StatusError(status int) error {
	if text := http.StatusText(status); text != "" {
		return fmt.Errorf("the app answered %d %s", status, text)
	}
	return fmt.Errorf("the app answered %d", status)
}

// progress is how far a request came before it failed.
type progress uint8

const (
	unsent   progress = iota // nothing of it has left this process
	sent                     // some of it may have reached the app
	answered                 // the answer had begun
)

// late tells whether the deadline is over. Whoever set it may cancel the context
// a moment after that, and before the context's own timer has run: a third of
// the calls that hung, 0.5 ms behind their time, were taken for given up as by a
// shutdown, and didn't count for the breaker.
func late(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// failed says what it means that no whole answer came.
func failed(ctx context.Context, err error, got progress, elapsed time.Duration) Outcome {
	elapsed = elapsed.Round(time.Millisecond)
	var blocked *BlockedError
	switch {
	case errors.As(err, &blocked):
		return Outcome{Verdict: Rejected, Reason: ReasonBlockedAddress, Err: err}
	case errors.Is(ctx.Err(), context.Canceled) && !late(ctx):
		return Outcome{
			Verdict: Retry, Reason: ReasonLocal, Requested: got != unsent,
			Err: fmt.Errorf("given up after %v, as by a shutdown: %w", elapsed, err),
		}
	case isLocal(err):
		return Outcome{
			Verdict: Retry, Reason: ReasonLocal, Requested: got != unsent,
			Err: fmt.Errorf("a fault of this machine or its network: %w", err),
		}
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return Outcome{
			Verdict: Retry, Effect: Failure, Reason: ReasonTimeout, Requested: true,
			Err: fmt.Errorf("%s within %v", [...]string{
				unsent: "no connection", sent: "no answer", answered: "the answer was not complete",
			}[got], elapsed),
		}
	default:
		return Outcome{
			Verdict: Retry, Effect: Failure, Reason: ReasonConnection, Requested: true,
			Err: fmt.Errorf("%s: %w", [...]string{
				unsent: "can't connect", sent: "the connection broke before the answer", answered: "the connection broke within the answer",
			}[got], err),
		}
	}
}

// localFaults are what a system call fails with when it is not the other
// side's doing: no network, no more files or ports, no memory, or a firewall
// of our own. A host that is unreachable or refuses is the app's.
var localFaults = [...]syscall.Errno{
	syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EMFILE, syscall.ENFILE,
	syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM, syscall.EACCES,
}

func isLocal(err error) bool {
	for _, fault := range localFaults {
		if errors.Is(err, fault) {
			return true
		}
	}
	// A name server that can't be reached is our network's fault, too, and the
	// first that one sees of it; the resolver keeps only the words of why.
	var lookup *net.DNSError
	if !errors.As(err, &lookup) {
		return false
	}
	for _, fault := range append(localFaults[:], syscall.ECONNREFUSED, syscall.EHOSTUNREACH) {
		if strings.Contains(lookup.Err, fault.Error()) {
			return true
		}
	}
	return false
}

// oneLine returns what an app wrote in a form that fits a header or a log
// line: without control characters, and not long.
func oneLine(s string) string {
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
