package consumers

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"backstop/dispatcher"
)

func TestRedact(t *testing.T) {
	for name, tc := range map[string]struct{ text, want, why string }{
		"plain":      {`{"error":"no such quiz"}`, `{"error":"no such quiz"}`, "ordinary words stay"},
		"code":       {`QUIZ_ALREADY_FINISHED_AND_CLOSED_SINCE`, `QUIZ_ALREADY_FINISHED_AND_CLOSED_SINCE`, "long words in one case stay"},
		"control":    {"a\x1b[31mb\x00c\r\nd\u202ee", "a[31mbc  de", "nothing that a terminal or a page obeys"},
		"utf-8":      {"a\xff\xfeb", "a\uFFFDb", "invalid bytes"},
		"whsec":      {"got whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "got [redacted]", "our own secrets"},
		"short":      {"whsec_abc", "[redacted]", "also when they are cut off"},
		"header":     {"Authorization: Bearer abc.def", "Authorization: [redacted]", "a header with its scheme"},
		"bearer":     {"you sent bearer 0123456789", "you sent bearer [redacted]", "a scheme without its header"},
		"member":     {`{"apiKey":"sk_live_1","x":1}`, `{"apiKey":[redacted],"x":1}`, "a member that holds one"},
		"escaped":    {`{"password":"a\"b","x":1}`, `{"password":[redacted],"x":1}`, "with a quote inside"},
		"unclosed":   {`{"token":"abc`, `{"token":[redacted]`, "cut off"},
		"form":       {"user=ann&password=hunter2&x=1", "user=ann&password=[redacted]&x=1", "as in a form"},
		"cookie":     {"Set-Cookie: sid=1", "Set-Cookie: [redacted]", "a session"},
		"hex":        {"id 0123456789abcdef0123456789abcdef", "id [redacted]", "a run of hex"},
		"jwt":        {"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxIn0.abc-_", "[redacted]", "all three parts"},
		"e-mail":     {"no user ann.lee+x@mail.example.com here", "no user [redacted] here", "people are nobody's business"},
		"not e-mail": {"a @ b", "a @ b", "an at sign alone"},
	} {
		if got := redact(tc.text); got != tc.want {
			t.Errorf("%s: %q, want %q: %s", name, got, tc.want, tc.why)
		}
	}
	cut := strings.Repeat("x ", (dispatcher.MaxLoggedBody-14)/2) + "abcDEF12345678"
	if got := redactAnswer([]byte(cut)); !strings.HasSuffix(got, " "+redacted) {
		t.Errorf("the beginning of a token at the cut stays: %q", got)
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("a\xffb whsec_abc Authorization: Bearer x")
	f.Add(`{"token":"a\"b`)
	f.Fuzz(func(t *testing.T, text string) {
		got := redact(text)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return unicode.IsControl(r) }) {
			t.Errorf("%q is not fit to be shown", got)
		}
		if i := strings.Index(got, "whsec_"); i >= 0 && i+6 < len(got) && got[i+6] >= 'a' && got[i+6] <= 'z' {
			t.Errorf("a secret is left in %q", got)
		}
	})
}

func TestAttemptsAreDescribed(t *testing.T) {
	delivered := dispatcher.Outcome{Verdict: dispatcher.Delivered, Requested: true, Status: 200}
	accepted := dispatcher.Outcome{Verdict: dispatcher.Delivered, Requested: true, Status: 202, Accepted: true}
	no := dispatcher.Outcome{
		Verdict: dispatcher.Rejected, Requested: true, Status: 200, Reason: dispatcher.ReasonRejected, AppError: &dispatcher.AppError{Code: "CLOSED"},
		Err: errors.New("the app said no: CLOSED: ask ann@example.com"), Body: []byte(`{"success":false,"token":"abc"}`),
	}
	later := no
	later.Verdict = dispatcher.Retry
	bad := dispatcher.Outcome{Verdict: dispatcher.Rejected, Requested: true, Status: 400, Reason: dispatcher.ReasonStatus}
	timeout := dispatcher.Outcome{Verdict: dispatcher.Retry, Requested: true, Reason: dispatcher.ReasonTimeout, Err: errors.New("no answer within 2s")}
	open := dispatcher.Outcome{Verdict: dispatcher.Refused, Reason: dispatcher.ReasonCircuitOpen}
	for name, tc := range map[string]struct {
		call    bool
		out     dispatcher.Outcome
		success bool
		verdict string
		why     string
	}{
		"event":          {false, delivered, true, "delivered", "the plain case"},
		"event, no":      {false, no, false, "rejected", "an event that is rejected was not delivered"},
		"call":           {true, delivered, true, "delivered", "the app answered"},
		"call, no":       {true, no, true, "rejected", "so it did here"},
		"call, later":    {true, later, false, "retry", "an app that asks to come back has not answered"},
		"call, accepted": {true, accepted, true, "delivered", "202"},
		"call, 400":      {true, bad, false, "rejected", "a status is no answer"},
		"call, timeout":  {true, timeout, false, "retry", "whatever a fallback answers"},
		"call, open":     {true, open, false, "refused", "no request"},
	} {
		l := NewAttemptLog(nil, slog.New(slog.DiscardHandler))
		l.Record(dispatcher.Call{Sync: tc.call, Attempt: 2}, tc.out)
		e := <-l.entries
		if e.Success != tc.success || e.Verdict != tc.verdict || e.Call != tc.call || e.Attempt != 2 ||
			e.Requested != tc.out.Requested || e.TimedOut != (tc.out.Reason == dispatcher.ReasonTimeout) {
			t.Errorf("%s: %+v, want success %v, %s: %s", name, e, tc.success, tc.verdict, tc.why)
		}
		if strings.Contains(e.Error, "ann@") || strings.Contains(e.Answer, "abc") || len(tc.out.Body) > 0 && e.Answer == "" {
			t.Errorf("%s: not redacted: %+v", name, e)
		}
	}
}

// What the log costs an attempt that failed.
func BenchmarkRedactAnswer(b *testing.B) {
	body := []byte(`{"success":false,"error":{"code":"QUIZ_CLOSED","message":"The quiz was closed by ann@example.com at 2026-11-25T08:00:00Z; open it again, or ask for another one."},"requestId":"0190f3c2-7f3e-7d2a-9d5e-8a1b2c3d4e5f","links":["https://quiz.example.com/help"]}`)
	for b.Loop() {
		redactAnswer(body)
	}
}
