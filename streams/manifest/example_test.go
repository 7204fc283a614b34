package manifest_test

import (
	"fmt"
	"time"

	"backstop/streams/manifest"
)

func ExampleParse() {
	_, err := manifest.Parse([]byte(`{
		"appId": "quiz",
		"baseUrl": "http://10.0.0.7",
		"webhooks": {
			"analytics": {"path": "/analytics", "timout": 1000, "timeout": 40000}
		}
	}`), manifest.Options{})
	fmt.Println(err)
	// Output:
	// /baseUrl: 10.0.0.7 is a private address; use a public one, or have the operator add its network to BACKSTOP_ALLOWED_NETWORKS
	// /webhooks/analytics/timout: unknown field; did you mean "timeout"?
	// /webhooks/analytics/timeout: 40000 is more than the 30000 ms that analytics may take
}

func ExampleManifest_Endpoints() {
	m, err := manifest.Parse([]byte(`{
		"appId": "quiz",
		"baseUrl": "https://quiz.example.com",
		"webhooks": {
			"quizAnswer": {"path": "/answer"},
			"analytics": {"path": "/analytics", "timeout": 5000}
		}
	}`), manifest.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	settings := manifest.Defaults{Timeouts: map[string]time.Duration{manifest.EnvName("quizAnswer"): time.Second}}
	for _, e := range m.Endpoints(settings) {
		fmt.Println(e.EndpointID, e.URL, e.Async, e.Timeout)
	}
	// Output:
	// analytics/quiz https://quiz.example.com/analytics true 5s
	// quizAnswer/quiz https://quiz.example.com/answer false 1s
}
