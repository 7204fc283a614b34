package consumers

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"backstop/dispatcher"
	"backstop/streams"
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

// entries runs a call or event through the stages and returns what is recorded.
func recorded(t *testing.T, sync bool, attempt, answer *dispatcher.Outcome) streams.Attempt {
	t.Helper()
	l := NewAttemptLog(nil, slog.New(slog.DiscardHandler))
	deliver := dispatcher.Chain(func(context.Context, dispatcher.Call) dispatcher.Outcome { return *attempt }, l.Log())
	handler := deliver
	if sync {
		handler = dispatcher.Chain(func(ctx context.Context, c dispatcher.Call) dispatcher.Outcome {
			var out dispatcher.Outcome
			if attempt != nil {
				out = deliver(ctx, c)
			}
			if answer != nil {
				out = *answer
			}
			return out
		}, l.LogCall())
	}
	handler(t.Context(), dispatcher.Call{Sync: sync, Attempt: 1})
	if len(l.entries) != 1 {
		t.Fatalf("%d entries, want one", len(l.entries))
	}
	return <-l.entries
}

func TestAttemptsAreRecordedOnce(t *testing.T) {
	delivered := dispatcher.Outcome{Verdict: dispatcher.Delivered, Requested: true, Status: 200}
	no := dispatcher.Outcome{
		Verdict: dispatcher.Rejected, Requested: true, Status: 200, Reason: dispatcher.ReasonRejected, AppError: &dispatcher.AppError{Code: "CLOSED"},
		Err: errors.New("the app said no: CLOSED: ask ann@example.com"), Body: []byte(`{"success":false,"token":"abc"}`),
	}
	timeout := dispatcher.Outcome{Verdict: dispatcher.Retry, Requested: true, Reason: dispatcher.ReasonTimeout, Err: errors.New("no answer within 2s")}
	open := dispatcher.Outcome{Verdict: dispatcher.Refused, Reason: dispatcher.ReasonCircuitOpen}
	cached := dispatcher.Outcome{Verdict: dispatcher.Delivered, Source: streams.SourceCache, Reason: dispatcher.ReasonTimeout}
	for name, tc := range map[string]struct {
		call            bool
		attempt, answer *dispatcher.Outcome
		success         bool
		verdict         string
		source          streams.Source
		why             string
	}{
		"event":           {false, &delivered, nil, true, "delivered", "", "an event has no source"},
		"event, no":       {false, &no, nil, false, "rejected", "", "an event that is rejected was not delivered"},
		"call":            {true, &delivered, nil, true, "delivered", streams.SourceApp, "the app answered"},
		"call, no":        {true, &no, nil, true, "rejected", streams.SourceApp, "so it did here"},
		"call, accepted":  {true, &dispatcher.Outcome{Verdict: dispatcher.Delivered, Requested: true, Accepted: true}, nil, true, "delivered", streams.SourcePending, "202"},
		"call, fallback":  {true, &timeout, &cached, false, "retry", streams.SourceCache, "the attempt failed, whoever answered"},
		"call, nobody":    {true, &timeout, nil, false, "retry", streams.SourceNone, "an error is the answer"},
		"call, open":      {true, &open, &cached, false, "refused", streams.SourceCache, "no request"},
		"call, not tried": {true, nil, &cached, false, "refused", streams.SourceCache, "something answered before"},
	} {
		e := recorded(t, tc.call, tc.attempt, tc.answer)
		if e.Success != tc.success || e.Verdict != tc.verdict || e.Source != tc.source || e.Call != tc.call || e.Requested != (tc.attempt != nil && tc.attempt.Requested) {
			t.Errorf("%s: %+v, want success %v, %s by %q: %s", name, e, tc.success, tc.verdict, tc.source, tc.why)
		}
	}
	if e := recorded(t, false, &no, nil); strings.Contains(e.Error, "ann@") || strings.Contains(e.Answer, "abc") || e.Answer == "" {
		t.Errorf("not redacted: %+v", e)
	}
}
