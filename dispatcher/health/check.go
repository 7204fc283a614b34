package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"backstop/dispatcher"
	"backstop/streams"
)

const (
	// Timeout is how long an app may take to answer a check.
	Timeout = 5 * time.Second
	// SlowAfter is from when on a good answer is too slow for a healthy app:
	// half of the timeout.
	SlowAfter = Timeout / 2
)

// Getter makes the request: a dispatcher.Poster, with the guarantees of a webhook.
type Getter interface {
	Get(ctx context.Context, url, accept string) dispatcher.Answer
}

// Result is what one check said.
type Result struct {
	// State is Healthy, Degraded or Unhealthy, or HealthUnknown when nothing
	// was learnt about the app, as when our own network is down.
	State streams.HealthState
	// Status is the answer's HTTP status; 0 when there was none.
	Status int
	// Duration is how long the check took.
	Duration time.Duration
	// Reason is why there was no good answer. Empty when there was one, slow or
	// bad by its own word as it may be.
	Reason dispatcher.Reason
	// Err says why in a sentence. Nil when healthy.
	Err error
}

// Check asks the app how it is. It takes no longer than Timeout.
func Check(ctx context.Context, g Getter, url string) Result {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	return judge(g.Get(ctx, url, "application/json, */*;q=0.5"))
}

// judge says what an answer means.
func judge(a dispatcher.Answer) Result {
	r := Result{State: streams.Unhealthy, Status: a.Status, Duration: a.Duration, Reason: a.Reason, Err: a.Err}
	switch {
	case a.Reason == dispatcher.ReasonLocal:
		r.State = streams.HealthUnknown
	case a.Err != nil:
	case a.Status < 200 || a.Status > 299:
		r.Reason, r.Err = dispatcher.ReasonStatus, statusError(a.Status)
	default:
		return ownWord(a, r)
	}
	return r
}

// ownWord judges a 2xx answer by what it says, and by how long it took.
func ownWord(a dispatcher.Answer, r Result) Result {
	var body struct {
		Status string `json:"status"`
	}
	// What is no JSON, or no object with a status in words, says nothing.
	_ = json.Unmarshal(a.Body, &body)
	switch strings.ToLower(body.Status) {
	case "degraded", "warn":
		r.State, r.Err = streams.Degraded, errors.New("the app says itself that it is degraded")
	case "unhealthy", "fail", "down":
		r.Err = errors.New("the app says itself that it is unhealthy")
	default:
		r.State = streams.Healthy
		if a.Duration > SlowAfter {
			r.State, r.Err = streams.Degraded, fmt.Errorf("slow: it took %v to answer, and %v is too long", a.Duration.Round(time.Millisecond), SlowAfter)
		}
	}
	return r
}

func statusError(status int) error {
	err := dispatcher.StatusError(status)
	if status >= 300 && status <= 399 {
		return fmt.Errorf("%w; redirects are not followed: correct the path in its manifest", err)
	}
	return err
}
