package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The table of the contract's section 6, row by row. Where a row says "other",
// the statuses are all that no row names.
func TestClassifyStatus(t *testing.T) {
	rejected := []int{400, 405, 406, 411, 413, 414, 415, 422, 431, 501}
	named := append([]int{408, 410, 425, 429}, rejected...)
	between := func(from, to int) (all []int) {
		for s := from; s <= to; s++ {
			if !slices.Contains(named, s) {
				all = append(all, s)
			}
		}
		return all
	}
	rows := []struct {
		row      string
		statuses []int
		want     Outcome // what every status of the row has in common
	}{
		{"3xx", between(300, 399), Outcome{Verdict: Rejected, Effect: Failure, Reason: ReasonStatus}},
		{"400, 405, …, 501", rejected, Outcome{Verdict: Rejected, Effect: NotCounted, Reason: ReasonStatus}},
		{"401, 403, 404 and other 4xx", between(400, 499), Outcome{Verdict: Retry, Effect: NotCounted, Reason: ReasonStatus, Misconfigured: true}},
		{"408, 425", []int{408, 425}, Outcome{Verdict: Retry, Effect: Failure, Reason: ReasonStatus}},
		{"410", []int{410}, Outcome{Verdict: Rejected, Effect: NotCounted, Reason: ReasonStatus, Gone: true}},
		{"429", []int{429}, Outcome{Verdict: Retry, Effect: NotCounted, Reason: ReasonRateLimited, PauseEndpoint: true, RetryAfter: 7 * time.Second}},
		{"503", []int{503}, Outcome{Verdict: Retry, Effect: Failure, Reason: ReasonStatus, RetryAfter: 7 * time.Second}},
		{"other 5xx", slices.DeleteFunc(between(500, 599), func(s int) bool { return s == 503 }), Outcome{Verdict: Retry, Effect: Failure, Reason: ReasonStatus}},
		{"not HTTP at all", append(between(0, 199), between(600, 999)...), Outcome{Verdict: Retry, Effect: Failure, Reason: ReasonStatus}},
	}
	seen := 0
	for _, row := range rows {
		seen += len(row.statuses)
		for _, status := range row.statuses {
			for _, sync := range []bool{false, true} {
				// A body that would be a good answer changes nothing.
				a := answer{status: status, header: http.Header{"Retry-After": {"7"}}, body: []byte(`{"success":true}`)}
				out := classify(sync, a, time.Now())
				if out.Err == nil || !strings.Contains(out.Err.Error(), fmt.Sprint(status)) {
					t.Errorf("%d: error %v doesn't name it", status, out.Err)
				}
				if string(out.Body) != string(a.body) {
					t.Errorf("%d: body %q is not kept for the log", status, out.Body)
				}
				want := row.want
				want.Status, want.Requested, want.Err, want.Body = status, true, out.Err, out.Body
				if fmt.Sprintf("%+v", out) != fmt.Sprintf("%+v", want) {
					t.Errorf("%s: %d (sync %v): %+v, want %+v", row.row, status, sync, out, want)
				}
			}
		}
	}
	if seen != 1000-100 { // the 2xx are another table
		t.Errorf("%d statuses were looked at, want 900", seen)
	}
}

func TestClassifyGoodAnswers(t *testing.T) {
	const (
		yes = `{"success":true,"data":{"n":1}}`
		no  = `{"success":false,"error":{"code":"sold_out","message":"none left"}}`
	)
	type result struct {
		Verdict
		Effect
		Reason
	}
	good := result{Delivered, Success, ""}
	bad := result{Rejected, Failure, ReasonBadResponse}
	said := result{Rejected, Success, ReasonRejected}
	later := result{Retry, Success, ReasonRejected}
	tests := []struct {
		status      int
		body        string
		event, call result
		data        string    // in both
		err         *AppError // in both
		reason      string
	}{
		{200, yes, good, good, `{"n":1}`, nil, "the agreed answer"},
		{201, yes, good, good, `{"n":1}`, nil, "any 2xx"},
		{299, yes, good, good, `{"n":1}`, nil, "even unknown ones"},
		{200, " \r\n\t{ \"data\" : [1, 2] , \"success\" : true }\n", good, good, `[1, 2]`, nil, "spaces, and another order"},
		{200, `{"success":true}`, good, good, "", nil, "without data"},
		{200, `{"success":true,"data":null}`, good, good, "null", nil, "null is data"},
		{200, `{"success":true,"data":1,"more":2}`, good, good, "1", nil, "more fields than agreed"},
		{200, `{"success":true,"data":1,"error":{"code":"x"}}`, good, good, "1", nil, "success is what counts"},

		{202, "", good, good, "", nil, "accepted"},
		{202, yes, good, good, "", nil, "accepted, with a body that says so"},
		{202, "queued", good, good, "", nil, "accepted, with words"},
		{202, no, good, good, "", nil, "accepted is accepted"},

		{200, "", good, bad, "", nil, "empty"},
		{204, "", good, bad, "", nil, "no content"},
		{200, "   ", good, bad, "", nil, "blank"},
		{200, "ok", good, bad, "", nil, "words"},
		{200, "<html></html>", good, bad, "", nil, "a page"},
		{200, `"success"`, good, bad, "", nil, "a string"},
		{200, `[{"success":true}]`, good, bad, "", nil, "an array"},
		{200, `null`, good, bad, "", nil, "null"},
		{200, `true`, good, bad, "", nil, "a boolean"},
		{200, `{}`, good, bad, "", nil, "an empty object"},
		{200, `{"ok":true}`, good, bad, "", nil, "another object"},
		{200, `{"success":"true"}`, good, bad, "", nil, "a string for a boolean"},
		{200, `{"success":1}`, good, bad, "", nil, "a number for a boolean"},
		{200, `{"success":null}`, good, bad, "", nil, "null for a boolean"},
		{200, `{"Success":true,"data":1}`, good, bad, "", nil, "names are case-sensitive"},
		{200, `{"success":true,"data":{"n":1`, good, bad, "", nil, "cut off"},
		{200, `{"success":true} trailing`, good, bad, "", nil, "more behind it"},
		{200, `{"success":true}{"success":false}`, good, bad, "", nil, "two of them"},
		{200, "\xef\xbb\xbf" + yes, good, bad, "", nil, "a byte-order mark is not JSON"},
		{200, "{\"success\":true,\"data\":\"\xff\"}", good, bad, "", nil, "not UTF-8, which JSON is"},
		{200, "\x1f\x8b\x08", good, bad, "", nil, "compressed, which we never ask for"},

		{200, no, said, said, "", &AppError{Code: "sold_out", Message: "none left"}, "a no"},
		{200, `{"success":false,"data":{"n":1},"error":{"code":"c","message":"m","retryable":false}}`, said, said, "", &AppError{Code: "c", Message: "m"}, "a no for good"},
		{200, `{"success":false,"error":{"code":"busy","message":"m","retryable":true}}`, later, later, "", &AppError{Code: "busy", Message: "m", Retryable: true}, "a no for now"},
		{200, `{"success":false,"error":{"code":"c","message":"m","retryable":"true"}}`, said, said, "", &AppError{Code: "c", Message: "m"}, "retryable has to be a boolean"},
		{200, `{"success":false}`, said, said, "", &AppError{Code: unnamedCode, Message: unnamedMessage}, "a no without a reason"},
		{200, `{"success":false,"error":null}`, said, said, "", &AppError{Code: unnamedCode, Message: unnamedMessage}, "a null reason"},
		{200, `{"success":false,"error":"no luck"}`, said, said, "", &AppError{Code: unnamedCode, Message: "no luck"}, "a reason in words"},
		{200, `{"success":false,"error":{"code":42,"message":["a"]}}`, said, said, "", &AppError{Code: "42", Message: `["a"]`}, "other types stay readable"},
		{200, `{"success":false,"error":7}`, said, said, "", &AppError{Code: unnamedCode, Message: "7"}, "a number"},
	}
	for _, test := range tests {
		for _, sync := range []bool{false, true} {
			body := []byte(test.body)
			out := classify(sync, answer{status: test.status, body: body}, time.Now())
			clear(body) // the buffer is used again; nothing may point into it
			want := test.event
			if sync {
				want = test.call
			}
			name := fmt.Sprintf("%s (sync %v)", test.reason, sync)
			if got := (result{out.Verdict, out.Effect, out.Reason}); got != want {
				t.Errorf("%s: %+v, want %+v", name, got, want)
			}
			if !out.Requested || out.Status != test.status || out.Accepted != (test.status == 202) {
				t.Errorf("%s: requested %v, status %d, accepted %v", name, out.Requested, out.Status, out.Accepted)
			}
			if string(out.Data) != test.data {
				t.Errorf("%s: data %q, want %q", name, out.Data, test.data)
			}
			if (out.AppError == nil) != (test.err == nil) || (test.err != nil && *out.AppError != *test.err) {
				t.Errorf("%s: app's error %+v, want %+v", name, out.AppError, test.err)
			}
			if wantBody := want != good && test.body != ""; (out.Body != nil) != wantBody || (wantBody && string(out.Body) != test.body) {
				t.Errorf("%s: body %q for the log", name, out.Body)
			}
			if (out.Err == nil) != (want == good) {
				t.Errorf("%s: error %v", name, out.Err)
			}
		}
	}
}

func TestLoggedBodyIsShort(t *testing.T) {
	out := classify(false, answer{status: 500, body: []byte(strings.Repeat("x", 10_000))}, time.Now())
	if len(out.Body) != 256 {
		t.Errorf("%d bytes are kept", len(out.Body))
	}
	long := `{"success":false,"error":{"code":"a\r\nBackstop-Reason: forged","message":"` + strings.Repeat("é", 5000) + `"}}`
	out = classify(false, answer{status: 200, body: []byte(long)}, time.Now())
	if text := out.Err.Error(); strings.ContainsAny(text, "\r\n") || len(text) > 500 {
		t.Errorf("an app's words are to fit one line: %d bytes, %q", len(text), text)
	}
}

// dialError is what net returns for a system call that failed.
func dialError(call string, errno syscall.Errno) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError(call, errno)}
}

func TestFailures(t *testing.T) {
	alive := context.Background()
	canceled, cancel := context.WithCancel(alive)
	cancel()
	causedBy, cancelCause := context.WithCancelCause(alive)
	cancelCause(errors.New("shutting down"))
	expired, cancelExpired := context.WithDeadline(alive, time.Unix(0, 0))
	defer cancelExpired()

	local := func(requested bool) verdict { return verdict{Retry, NotCounted, ReasonLocal, requested, 0} }
	timeout := verdict{Retry, Failure, ReasonTimeout, true, 0}
	connection := verdict{Retry, Failure, ReasonConnection, true, 0}
	blocked := verdict{Rejected, NotCounted, ReasonBlockedAddress, false, 0}
	refusal := &BlockedError{netip.MustParseAddr("10.0.0.1"), "private"}
	lookup := func(text string) error {
		return &net.OpError{Op: "dial", Err: &net.DNSError{Err: text, Name: "app.test", Server: "1.1.1.1:53"}}
	}

	tests := []struct {
		reason string
		ctx    context.Context
		err    error
		got    progress
		want   verdict
	}{
		{"the guard refused", alive, &net.OpError{Op: "dial", Err: refusal}, unsent, blocked},
		{"the guard refused, and it took long", expired, refusal, unsent, blocked},
		{"shutdown while connecting", canceled, context.Canceled, unsent, local(false)},
		{"shutdown while waiting", canceled, context.Canceled, sent, local(true)},
		{"shutdown with a cause", causedBy, context.Cause(causedBy), answered, local(true)},
		{"shutdown closed the connection", canceled, net.ErrClosed, sent, local(true)},
		{"no network", alive, dialError("connect", syscall.ENETUNREACH), unsent, local(false)},
		{"interface down", alive, dialError("connect", syscall.ENETDOWN), unsent, local(false)},
		{"too many files", alive, dialError("socket", syscall.EMFILE), unsent, local(false)},
		{"too many files on the machine", alive, dialError("socket", syscall.ENFILE), unsent, local(false)},
		{"no ports left", alive, dialError("connect", syscall.EADDRNOTAVAIL), unsent, local(false)},
		{"no buffers", alive, dialError("connect", syscall.ENOBUFS), unsent, local(false)},
		{"no memory", alive, dialError("connect", syscall.ENOMEM), unsent, local(false)},
		{"our firewall", alive, dialError("connect", syscall.EPERM), unsent, local(false)},
		{"network went down within a request", alive, dialError("read", syscall.ENETDOWN), sent, local(true)},
		{"no network, until the deadline", expired, dialError("connect", syscall.ENETUNREACH), unsent, local(false)},
		{"no way to the name server", alive, lookup("dial udp 1.1.1.1:53: connect: network is unreachable"), unsent, local(false)},
		{"no name server there", alive, lookup("read udp 127.0.0.1:4->127.0.0.53:53: read: connection refused"), unsent, local(false)},

		{"the deadline is over, and whoever set it was first to cancel", cancelledLate{canceled}, context.Canceled, sent, timeout},
		{"deadline while connecting", expired, context.DeadlineExceeded, unsent, timeout},
		{"deadline while waiting", expired, context.DeadlineExceeded, sent, timeout},
		{"deadline within the answer", expired, context.DeadlineExceeded, answered, timeout},
		{"the dialer's clock was first", alive, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, unsent, timeout},
		{"the deadline closed the connection", expired, net.ErrClosed, sent, timeout},

		{"refused", alive, dialError("connect", syscall.ECONNREFUSED), unsent, connection},
		{"host unreachable", alive, dialError("connect", syscall.EHOSTUNREACH), unsent, connection},
		{"reset", alive, dialError("read", syscall.ECONNRESET), sent, connection},
		{"broken pipe", alive, dialError("write", syscall.EPIPE), sent, connection},
		{"the kernel gave up connecting", alive, dialError("connect", syscall.ETIMEDOUT), unsent, connection},
		{"closed without an answer", alive, io.EOF, sent, connection},
		{"closed within the answer", alive, io.ErrUnexpectedEOF, answered, connection},
		{"no such host", alive, lookup("no such host"), unsent, connection},
		{"the app's name server fails", alive, lookup("server misbehaving"), unsent, connection},
		{"certificate", alive, errors.New("tls: failed to verify certificate"), unsent, connection},
	}
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			expectVerdict(t, failed(test.ctx, test.err, test.got, 2*time.Second), test.want)
		})
	}
}

// cancelledLate is a context that was cancelled after its deadline, and before
// its timer.
type cancelledLate struct{ context.Context }

func (cancelledLate) Deadline() (time.Time, bool) { return time.Now(), true }

// Whatever an app answers, the verdict is one of those there are, says why
// unless all is well, and points nowhere into the buffer.
func FuzzClassify(f *testing.F) {
	for _, body := range []string{`{"success":true,"data":1}`, `{"success":false,"error":{"code":"c","retryable":true}}`, "", "ok", `{"success":`} {
		f.Add(200, body, "5", false)
		f.Add(503, body, "Sun, 01 Mar 2026 12:02:00 GMT", true)
	}
	f.Fuzz(func(t *testing.T, status int, body, retryAfter string, sync bool) {
		buf := []byte(body)
		out := classify(sync, answer{status: status, header: http.Header{"Retry-After": {retryAfter}}, body: buf}, time.Unix(1772366400, 0))
		shown := fmt.Sprintf("%s %s %+v", out.Data, out.Body, out.AppError)
		for i := range buf {
			buf[i] = 0xff
		}
		if again := fmt.Sprintf("%s %s %+v", out.Data, out.Body, out.AppError); again != shown {
			t.Fatalf("the outcome points into the buffer: %s, then %s", shown, again)
		}
		if out.Verdict != Delivered && out.Verdict != Retry && out.Verdict != Rejected {
			t.Fatalf("verdict %v", out.Verdict)
		}
		if delivered := out.Verdict == Delivered; (out.Err == nil) != delivered || (out.Reason == "") != delivered {
			t.Fatalf("%v with reason %q and error %v", out.Verdict, out.Reason, out.Err)
		}
		if out.Verdict == Delivered && (status < 200 || status > 299) {
			t.Fatalf("%d is delivered", status)
		}
		if !out.Requested || out.Effect > Failure || out.RetryAfter < 0 || out.RetryAfter > MaxRetryAfter || len(out.Body) > MaxLoggedBody {
			t.Fatalf("%+v", out)
		}
		if out.Reason == ReasonRejected && (out.AppError == nil || out.AppError.Code == "" || out.AppError.Message == "") {
			t.Fatalf("a no without words: %+v", out.AppError)
		}
	})
}
