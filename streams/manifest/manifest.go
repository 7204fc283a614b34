package manifest

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Manifest is what one app declares about itself, as it wrote it: what is
// absent here is absent there, and Endpoints fills in the defaults. Parse
// makes it; its JSON is the contract's section 9.
type Manifest struct {
	// Schema is where the JSON Schema is, for editors. Backstop ignores it.
	Schema string `json:"$schema,omitempty"`
	// AppID names the app in subjects, keys and metrics.
	AppID string `json:"appId"`
	// Name is the app's name for people. Empty means AppID.
	Name string `json:"name,omitempty"`
	// BaseURL is where the app lives; paths are appended to it.
	BaseURL string `json:"baseUrl"`
	// Health says where the app answers health checks. Nil: nowhere.
	Health *Health `json:"health,omitempty"`
	// Metrics says where the app shows its metrics. Nil: nowhere.
	Metrics *Metrics `json:"metrics,omitempty"`
	// Webhooks are what the app takes on, by capability. At least one.
	Webhooks map[string]Webhook `json:"webhooks"`
}

// Health says where an app answers health checks.
type Health struct {
	Path string `json:"path"`
}

// Metrics says where an app shows its own metrics.
type Metrics struct {
	Path string `json:"path"`
}

// Webhook is what an app declares about one capability. A nil pointer, slice
// or map means that the manifest doesn't say; times are milliseconds.
type Webhook struct {
	// Path is appended to the manifest's baseUrl. It may have a query.
	Path string `json:"path"`
	// Async says that the webhook takes events rather than calls. Absent, the
	// capability decides; see Capability.Kind.
	Async *bool `json:"async,omitempty"`
	// Timeout of one attempt.
	Timeout *int64 `json:"timeout,omitempty"`
	// Retry says how a failed event is tried again.
	Retry *Retry `json:"retry,omitempty"`
	// Breaker says when the circuit opens and closes.
	Breaker *Breaker `json:"breaker,omitempty"`
	// Concurrency is the most attempts in flight at once.
	Concurrency *int `json:"concurrency,omitempty"`
	// RateLimit is the most attempts a second.
	RateLimit *float64 `json:"rateLimit,omitempty"`
	// MaxAge is how old an event may become.
	MaxAge *int64 `json:"maxAge,omitempty"`
	// Callback demands that the app calls back after an event was delivered.
	Callback *Callback `json:"callback,omitempty"`
	// Fallback is what answers a call that the app didn't, in order. Empty and
	// not nil: nothing does. Nil: what the capability has by default.
	Fallback []Strategy `json:"fallback,omitzero"`
	// FallbackOn are error codes of the app that make a call fall back.
	FallbackOn []string `json:"fallbackOn,omitempty"`
	// Headers are sent with every request. Not for secrets: a manifest can be
	// read by everybody who can read the apps bucket.
	Headers map[string]string `json:"headers,omitempty"`
}

// Retry says how a failed event is tried again.
type Retry struct {
	// Enabled is true when absent. False means one attempt.
	Enabled      *bool   `json:"enabled,omitempty"`
	MaxAttempts  *int    `json:"maxAttempts,omitempty"`
	Backoff      Backoff `json:"backoff,omitempty"`
	InitialDelay *int64  `json:"initialDelay,omitempty"`
	MaxDelay     *int64  `json:"maxDelay,omitempty"`
}

// Breaker says when a webhook's circuit opens and closes.
type Breaker struct {
	FailureThreshold *int   `json:"failureThreshold,omitempty"`
	RecoveryTimeout  *int64 `json:"recoveryTimeout,omitempty"`
	SuccessThreshold *int   `json:"successThreshold,omitempty"`
}

// Callback demands that the app sends its result to X-Callback-URL in time.
type Callback struct {
	// Within is how long after the delivery (2xx) it may take.
	Within int64 `json:"within"`
	// Retry says that an event without its callback is delivered again. False
	// when absent.
	Retry *bool `json:"retry,omitempty"`
}

// Title returns the app's name for people.
func (m Manifest) Title() string {
	if m.Name != "" {
		return m.Name
	}
	return m.AppID
}

// HealthURL returns where the app's health is checked, "" when nowhere.
func (m Manifest) HealthURL() string {
	if m.Health == nil {
		return ""
	}
	return m.url(m.Health.Path)
}

// MetricsURL returns where the app shows its metrics, "" when nowhere.
func (m Manifest) MetricsURL() string {
	if m.Metrics == nil {
		return ""
	}
	return m.url(m.Metrics.Path)
}

// url joins baseUrl and a path that starts with "/".
func (m Manifest) url(path string) string { return strings.TrimRight(m.BaseURL, "/") + path }

// JSON returns the manifest for people to read and Parse to read back:
// indented, webhooks sorted, characters such as & as they are. One that would
// be larger than MaxSize by its indentation alone comes without.
func (m Manifest) JSON() ([]byte, error) {
	pretty, err := m.encode("  ")
	if err == nil && len(pretty) > MaxSize {
		return m.encode("")
	}
	return pretty, err
}

func (m Manifest) encode(indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(m); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
