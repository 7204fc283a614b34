package manifest

import (
	"reflect"
	"testing"
	"time"

	"backstop/streams"
)

func parse(t *testing.T, doc string) Manifest {
	t.Helper()
	m, err := Parse([]byte(doc), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// endpoint returns the one endpoint of a manifest whose webhook has the given
// fields beside its path.
func endpoint(t *testing.T, capability, more string, d Defaults) Endpoint {
	t.Helper()
	m := parse(t, `{"appId":"quiz","baseUrl":"https://quiz.example.com","webhooks":{"`+capability+`":{"path":"/hook"`+more+`}}}`)
	return m.Endpoints(d)[0]
}

func TestEndpointsOfTheContractsExample(t *testing.T) {
	m := parse(t, string(documents(t, "valid")["contract"]))
	got := m.Endpoints(BuiltinDefaults())
	breaker := BreakerPolicy{FailureThreshold: 5, RecoveryTimeout: time.Minute, SuccessThreshold: 3}
	retry := RetryPolicy{MaxAttempts: 3, InitialDelay: time.Second, MaxDelay: 30 * time.Second, Backoff: Exponential}
	want := []Endpoint{
		{
			EndpointID: streams.EndpointID{Capability: "analytics", App: "quiz"},
			URL:        "https://quiz.example.com/api/platform/analytics",
			Async:      true, Timeout: 30 * time.Second, Retry: retry, Breaker: breaker, Concurrency: 32, MaxAge: 24 * time.Hour,
		},
		{
			EndpointID: streams.EndpointID{Capability: "quizAnswer", App: "quiz"},
			URL:        "https://quiz.example.com/api/platform/quiz-answer",
			Async:      false, Timeout: 2 * time.Second, Retry: retry, Breaker: breaker, Concurrency: 32, MaxAge: 24 * time.Hour,
			Fallback: []Strategy{
				{Strategy: StrategyCached, Key: []string{"/quizId", "/answer"}},
				{Strategy: StrategyDefault, Handler: HandlerReject},
			},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if again := m.Endpoints(Defaults{}); !reflect.DeepEqual(again, want) {
		t.Errorf("the zero Defaults give\n%+v", again)
	}
	if m.HealthURL() != "https://quiz.example.com/health" || m.MetricsURL() != "https://quiz.example.com/metrics" {
		t.Errorf("health %q, metrics %q", m.HealthURL(), m.MetricsURL())
	}
}

func TestURLIsBaseAndPath(t *testing.T) {
	for _, tt := range []struct{ base, path, want string }{
		{"https://a.example", "/hook", "https://a.example/hook"},
		{"https://a.example/", "/hook", "https://a.example/hook"},
		{"https://a.example/v1", "/hook?x=1", "https://a.example/v1/hook?x=1"},
		{"https://a.example/v1/", "/", "https://a.example/v1/"},
	} {
		m := parse(t, `{"appId":"a","baseUrl":"`+tt.base+`","webhooks":{"x":{"path":"`+tt.path+`"}}}`)
		if got := m.Endpoints(Defaults{})[0].URL; got != tt.want {
			t.Errorf("%s and %s make %s, want %s", tt.base, tt.path, got, tt.want)
		}
		if m.HealthURL() != "" || m.MetricsURL() != "" {
			t.Error("there is no health or metrics path")
		}
	}
}

func TestCatalogueIsTheContracts(t *testing.T) {
	reject := []Strategy{{Strategy: StrategyDefault, Handler: HandlerReject}}
	random := []Strategy{{Strategy: StrategyDefault, Handler: HandlerRandomSelection}}
	tests := []struct {
		name, more string
		async      bool
		timeout    time.Duration
		fallback   []Strategy
	}{
		{"quizAnswer", "", false, 2 * time.Second, reject},
		{"winnerSelection", "", false, 5 * time.Second, random},
		{"participantRegistration", "", false, 3 * time.Second, []Strategy{{Strategy: StrategyPending}}},
		{"quizRules", "", false, 2 * time.Second, []Strategy{{Strategy: StrategyCached}}},
		{"notification", "", true, 30 * time.Second, nil},
		{"analytics", "", true, 30 * time.Second, nil},
		{"email", "", true, 30 * time.Second, nil},
		{"report", "", true, 30 * time.Second, nil},
		{"dataSync", "", true, 30 * time.Second, nil},
		{"seatMap", "", false, 10 * time.Second, nil},
		{"seatMap", `,"async":false`, false, 10 * time.Second, nil},
		{"seatMap", `,"async":true`, true, 30 * time.Second, nil},
		{"QuizAnswer", "", false, 10 * time.Second, nil}, // another name
		{"quizAnswer", `,"async":true`, true, 2 * time.Second, reject},
		{"analytics", `,"async":false`, false, 30 * time.Second, nil},
		{"quizAnswer", `,"fallback":[]`, false, 2 * time.Second, []Strategy{}},
	}
	for _, tt := range tests {
		e := endpoint(t, tt.name, tt.more, BuiltinDefaults())
		if e.Async != tt.async || e.Timeout != tt.timeout || !reflect.DeepEqual(e.Fallback, tt.fallback) {
			t.Errorf("%s%s: async %v, timeout %v, fallback %v; want %v, %v, %v", tt.name, tt.more, e.Async, e.Timeout, e.Fallback, tt.async, tt.timeout, tt.fallback)
		}
	}
	if n := len(Capabilities()); n != 9 {
		t.Errorf("%d capabilities are built in, want 9", n)
	}
}

func TestWhoDecidesOnATimeout(t *testing.T) {
	settings := Defaults{
		Timeouts: map[string]time.Duration{"QUIZ_ANSWER": 700 * time.Millisecond, "EMAIL": time.Minute},
		Timeout:  4 * time.Second,
	}
	tests := []struct {
		capability, more string
		d                Defaults
		want             time.Duration
		reason           string
	}{
		{"quizAnswer", `,"timeout":50`, settings, 50 * time.Millisecond, "the manifest wins"},
		{"quizAnswer", "", settings, 700 * time.Millisecond, "the capability's own setting"},
		{"email", "", settings, time.Minute, "an operator may exceed the catalogue for one capability"},
		{"analytics", "", settings, 4 * time.Second, "the general setting wins over the catalogue"},
		{"quizRules", "", settings, 2 * time.Second, "but not over what the platform allows"},
		{"seatMap", "", settings, 4 * time.Second, "the general setting"},
		{"seatMap", "", Defaults{Timeout: time.Minute}, 10 * time.Second, "cut for a call"},
		{"seatMap", `,"async":true`, Defaults{Timeout: time.Minute}, 30 * time.Second, "cut for an event"},
		{"seatMap", "", Defaults{Timeouts: map[string]time.Duration{"SEAT_MAP": time.Second}}, time.Second, "any capability can have its own"},
	}
	for _, tt := range tests {
		if got := endpoint(t, tt.capability, tt.more, tt.d).Timeout; got != tt.want {
			t.Errorf("%s%s: %v, want %v: %s", tt.capability, tt.more, got, tt.want, tt.reason)
		}
	}
}

func TestManifestWinsOverSettings(t *testing.T) {
	settings := Defaults{
		Retry:       RetryPolicy{MaxAttempts: 7, InitialDelay: 2 * time.Second, MaxDelay: 9 * time.Second, Backoff: Fixed},
		Breaker:     BreakerPolicy{FailureThreshold: 8, RecoveryTimeout: 11 * time.Second, SuccessThreshold: 2},
		Concurrency: 5,
		MaxAge:      time.Hour,
	}
	e := endpoint(t, "analytics", "", settings)
	if e.Retry != settings.Retry || e.Breaker != settings.Breaker || e.Concurrency != 5 || e.MaxAge != time.Hour || e.RateLimit != 0 {
		t.Errorf("by settings alone: %+v", e)
	}
	e = endpoint(t, "analytics", `,"retry":{"maxAttempts":1},"breaker":{"recoveryTimeout":100},"concurrency":6,"maxAge":5000,"rateLimit":2.5`, settings)
	if e.Retry != (RetryPolicy{1, 2 * time.Second, 9 * time.Second, Fixed}) {
		t.Errorf("retry %+v: only maxAttempts is the manifest's", e.Retry)
	}
	if e.Breaker != (BreakerPolicy{8, 100 * time.Millisecond, 2}) {
		t.Errorf("breaker %+v: only recoveryTimeout is the manifest's", e.Breaker)
	}
	if e.Concurrency != 6 || e.MaxAge != 5*time.Second || e.RateLimit != 2.5 {
		t.Errorf("concurrency %d, maxAge %v, rateLimit %v", e.Concurrency, e.MaxAge, e.RateLimit)
	}
}

func TestRetryPolicy(t *testing.T) {
	tests := []struct {
		retry, reason string
		want          RetryPolicy
	}{
		{`{}`, "all by default", RetryPolicy{3, time.Second, 30 * time.Second, Exponential}},
		{`{"enabled":false,"maxAttempts":9}`, "switched off", RetryPolicy{1, time.Second, 30 * time.Second, Exponential}},
		{`{"enabled":true,"maxAttempts":9,"backoff":"linear"}`, "switched on", RetryPolicy{9, time.Second, 30 * time.Second, Linear}},
		{`{"initialDelay":60000}`, "a first delay above the longest of the settings raises it", RetryPolicy{3, time.Minute, time.Minute, Exponential}},
		{`{"maxDelay":10}`, "a longest delay below the first of the settings lowers it", RetryPolicy{3, 10 * time.Millisecond, 10 * time.Millisecond, Exponential}},
	}
	for _, tt := range tests {
		if got := endpoint(t, "analytics", `,"retry":`+tt.retry, BuiltinDefaults()).Retry; got != tt.want {
			t.Errorf("%s: %+v, want %+v: %s", tt.retry, got, tt.want, tt.reason)
		}
	}
}

func TestCallbackPolicy(t *testing.T) {
	for _, tt := range []struct {
		fields, reason string
		want           CallbackPolicy
		demanded       bool
	}{
		{``, "none is demanded by default", CallbackPolicy{}, false},
		{`,"callback":{"within":5000}`, "without a retry by default", CallbackPolicy{Within: 5 * time.Second}, true},
		{`,"callback":{"within":1e3,"retry":true}`, "with one", CallbackPolicy{Within: time.Second, Retry: true}, true},
	} {
		got := endpoint(t, "analytics", tt.fields, Defaults{}).Callback
		if got != tt.want || got.Demanded() != tt.demanded {
			t.Errorf("%s: %+v, want %+v: %s", tt.fields, got, tt.want, tt.reason)
		}
	}
}

func TestEndpointsShareNothingWithTheManifest(t *testing.T) {
	m := parse(t, `{"appId":"a","baseUrl":"http://a.example","webhooks":{"x":{"path":"/","headers":{"X-A":"1"},"fallbackOn":["A"],"fallback":[{"strategy":"queue"}]}}}`)
	e := m.Endpoints(Defaults{})[0]
	e.Headers["X-A"], e.FallbackOn[0], e.Fallback[0].Strategy = "2", "B", "pending"
	w := m.Webhooks["x"]
	if w.Headers["X-A"] != "1" || w.FallbackOn[0] != "A" || w.Fallback[0].Strategy != "queue" {
		t.Errorf("the manifest changed: %+v", w)
	}
}

func TestEnvName(t *testing.T) {
	for capability, want := range map[string]string{
		"quizAnswer":              "QUIZ_ANSWER",
		"winnerSelection":         "WINNER_SELECTION",
		"participantRegistration": "PARTICIPANT_REGISTRATION",
		"dataSync":                "DATA_SYNC",
		"data-sync":               "DATA_SYNC",
		"data_sync":               "DATA_SYNC",
		"DATA_SYNC":               "DATA_SYNC",
		"DataSync":                "DATA_SYNC",
		"email":                   "EMAIL",
		"quizAPI":                 "QUIZ_API",
		"APIKeyCheck":             "API_KEY_CHECK",
		"report2":                 "REPORT2",
		"v2Report":                "V2_REPORT",
		"x":                       "X",
	} {
		if got := EnvName(capability); got != want {
			t.Errorf("EnvName(%q) is %q, want %q", capability, got, want)
		}
	}
}
