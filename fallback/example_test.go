package fallback_test

import (
	"context"
	"fmt"
	"time"

	"backstop/dispatcher"
	"backstop/fallback"
	"backstop/streams"
	"backstop/streams/manifest"
)

// An app that is down, and a manifest that says what to answer then.
func Example() {
	down := func(context.Context, dispatcher.Call) dispatcher.Outcome {
		return dispatcher.Outcome{Verdict: dispatcher.Retry, Reason: dispatcher.ReasonConnection}
	}
	handle := dispatcher.Chain(down, fallback.Stage(fallback.Config{}))

	id := streams.EndpointID{Capability: "quizAnswer", App: "quiz"}
	out := handle(context.Background(), dispatcher.Call{
		Sync:  true,
		Event: streams.Event{EndpointID: id, ID: "call-1", Payload: []byte(`{"quizId":"q1","answer":"B"}`)},
		Endpoint: manifest.Endpoint{EndpointID: id, Timeout: 2 * time.Second, Fallback: []manifest.Strategy{
			{Strategy: "cached"}, // gives up: there is no cache here
			{Strategy: "default", Handler: "reject"},
		}},
	})
	fmt.Println(out.Source, out.Reason, string(out.Data))
	// Output: default connection {"accepted":false}
}

// Whoever has the payload and the seed repeats a draw.
func ExampleRedraw() {
	payload := []byte(`{"candidates": ["ann", "bob", "cleo", "dan"], "count": 2}`)
	seed := "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	winners, err := fallback.Redraw(payload, seed)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", winners)
	// Output: ["cleo" "dan"]
}

func ExampleDraw() {
	seed := make([]byte, 32) // a real one is random
	fmt.Println(fallback.Draw(seed, 10, 3))
	// Output: [4 3 5]
}
