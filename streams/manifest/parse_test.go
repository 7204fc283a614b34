package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// roundTrip proves that a manifest's JSON reads back as the same manifest.
func roundTrip(t *testing.T, m Manifest) {
	t.Helper()
	data, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(data, Options{anyAddress: true})
	if err != nil {
		t.Fatalf("its own JSON is refused: %v\n%s", err, data)
	}
	if !reflect.DeepEqual(again, m) {
		t.Errorf("reads back as\n%+v\nwant\n%+v", again, m)
	}
}

func TestParseReadsEveryField(t *testing.T) {
	m, err := Parse(documents(t, "valid")["full"], Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := func(n int64) *int64 { return &n }
	n := func(n int) *int { return &n }
	no, yes, half := false, true, 0.5
	want := Manifest{
		Schema:  "https://example.com/manifest.schema.json",
		AppID:   "Lottery_2-b",
		Name:    "Лотерея & «gifts» <b>",
		BaseURL: "HTTPS://user-apps.example.com:8443/v1/lottery/",
		Health:  &Health{Path: "/health?deep=1"},
		Metrics: &Metrics{Path: "/metrics"},
		Webhooks: map[string]Webhook{
			"quizAnswer": {Path: "/a"},
			"winnerSelection": {
				Path: "/winner?mode=fair&v=2", Timeout: p(5000), Async: &no, Concurrency: n(4), RateLimit: &half,
				Breaker: &Breaker{FailureThreshold: n(10), RecoveryTimeout: p(500), SuccessThreshold: n(1)},
				Fallback: []Strategy{
					{Strategy: StrategyDefault, Handler: HandlerService, Subject: "fallback.lottery.winner"},
					{Strategy: StrategyDefault, Handler: HandlerRandomSelection},
				},
				FallbackOn: []string{"BUSY", "no-tickets", "E.42"},
				Headers:    map[string]string{"X-Tenant": "lottery", "Authorization": "Bearer abc", "X-Empty": ""},
			},
			"participantRegistration": {Path: "/register", Async: &yes, Fallback: []Strategy{{Strategy: StrategyQueue}, {Strategy: StrategyPending}}},
			"analytics":               {Path: "/analytics/%D0%BB", MaxAge: p(3600000), Retry: &Retry{Enabled: &no}},
			"data-sync":               {Path: "/sync", Async: &yes, Timeout: p(30000), Retry: &Retry{Backoff: Linear, InitialDelay: p(5), MaxDelay: p(5)}},
		},
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got\n%+v\nwant\n%+v", m, want)
	}
}

func TestParseRefusesWhatIsTooLarge(t *testing.T) {
	data := documents(t, "valid")["minimal"]
	data = append(data, bytes.Repeat([]byte(" "), MaxSize+1-len(data))...)
	_, err := Parse(data, Options{})
	if want := "the manifest has 262145 bytes; at most 262144 (256 KiB) are allowed"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
	if _, err := Parse(data[:MaxSize], Options{}); err != nil {
		t.Errorf("the largest that is allowed is refused: %v", err)
	}
}

// A document may be as large as it likes to be wrong: that must not cost more
// than reading it.
func TestParseStopsCollectingProblems(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"a":1`)
	for i := 0; b.Len() < MaxSize-20; i++ {
		fmt.Fprintf(&b, `,"%x":1`, i)
	}
	b.WriteString("}")
	began := time.Now()
	_, err := Parse([]byte(b.String()), Options{})
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != maxProblems+1 {
		t.Fatalf("%d problems, want %d and one that says so", len(problems), maxProblems)
	}
	if last := problems[maxProblems]; !strings.Contains(last.Message, "not shown") {
		t.Errorf("the last problem is %v", last)
	}
}

func TestJSONOfALargeManifestFitsItsLimit(t *testing.T) {
	wide := strings.Repeat("1,", 100_000) + "1"
	deep := strings.Repeat("[", 50) + wide + strings.Repeat("]", 50)
	doc := `{"appId":"a","baseUrl":"http://a.example","webhooks":{"x":{"path":"/","fallback":[{"strategy":"default","handler":"static","value":` + deep + `}]}}}`
	m, err := Parse([]byte(doc), Options{})
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, m) // indented, it would be 11 MB
}

func TestJSONIsReadable(t *testing.T) {
	m, err := Parse([]byte(`{"appId":"a","name":"A & <B>","baseUrl":"http://a.example","webhooks":{"y":{"path":"/y"},"x":{"path":"/x?a=1&b=2","fallback":[]}}}`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "appId": "a",
  "name": "A & <B>",
  "baseUrl": "http://a.example",
  "webhooks": {
    "x": {
      "path": "/x?a=1&b=2",
      "fallback": []
    },
    "y": {
      "path": "/y"
    }
  }
}`
	if string(data) != want {
		t.Errorf("got\n%s\nwant\n%s", data, want)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"appId", "async", "maxAttempts", "path", "retry", "timeout", "ttl"}
	tests := []struct{ wrong, want, reason string }{
		{"timout", "timeout", "a letter missing"},
		{"tiemout", "timeout", "two letters exchanged"},
		{"Timeout", "timeout", "another case"},
		{"max_attempts", "maxAttempts", "another convention"},
		{"max-attempts", "maxAttempts", "another convention"},
		{"maxAttemps", "maxAttempts", "a letter missing"},
		{"tlt", "ttl", "two letters exchanged"},
		{"color", "", "nothing like it"},
		{"url", "", "nothing like it, and short"},
		{"", "", "nothing at all"},
	}
	for _, tt := range tests {
		if got := nearest(tt.wrong, names); got != tt.want {
			t.Errorf("nearest(%q) is %q, want %q: %s", tt.wrong, got, tt.want, tt.reason)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, folder := range []string{"valid", "invalid"} {
		for _, data := range documents(f, folder) {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data, Options{})
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("error %v is not a list of problems", err)
			}
			return
		}
		roundTrip(t, m)
		for _, e := range m.Endpoints(BuiltinDefaults()) {
			if e.Timeout <= 0 || e.MaxAge <= 0 || e.Concurrency < 1 || e.Retry.MaxAttempts < 1 ||
				e.Retry.InitialDelay <= 0 || e.Retry.InitialDelay > e.Retry.MaxDelay || e.Breaker.RecoveryTimeout <= 0 {
				t.Errorf("endpoint %+v", e)
			}
		}
	})
}
