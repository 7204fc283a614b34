package streams_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded"
	"backstop/streams"
)

// connectExample starts a NATS server with what an example needs, in the place
// of the one that Backstop runs on: a capability "analytics" that takes events,
// and two endpoints that answer calls.
func connectExample() (nc *nats.Conn, stop func()) {
	dir, err := os.MkdirTemp("", "example")
	must(err)
	ctx := context.Background()
	srv, err := embedded.Start(ctx, embedded.Config{DataDir: dir, Addr: embedded.AddrOff})
	must(err)
	nc, err = srv.Connect()
	must(err)
	js, err := jetstream.New(nc)
	must(err)
	must(streams.NewTopology(js, streams.Settings{StoreBytes: 1 << 30}).EnsureCapability(ctx, "analytics"))
	for subject, reply := range map[string]string{
		"calls.quizAnswer.quiz": `{"success":true,"data":{"correct":true},"source":"app","requestId":"answer-17","durationMs":41}`,
		"calls.quizAnswer.shop": `{"success":false,"error":{"code":"app_unavailable","message":"The app does not answer."},"source":"none","reason":"circuit_open","requestId":"answer-18","durationMs":0}`,
	} {
		_, err := nc.Subscribe(subject, func(msg *nats.Msg) { _ = msg.Respond([]byte(reply)) })
		must(err)
	}
	return nc, func() {
		nc.Close()
		srv.Shutdown(ctx)
		_ = os.RemoveAll(dir)
	}
}

// must ends an example that can't be set up.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func ExamplePublisher_Publish() {
	nc, stop := connectExample()
	defer stop()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	publisher := streams.NewPublisher(js)
	to := streams.EndpointID{Capability: "analytics", App: "quiz"}
	for range 2 { // as after an acknowledgement that got lost: the id makes it safe
		receipt, err := publisher.Publish(context.Background(), to, "order-1042", []byte(`{"event":"quiz_completed"}`))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(receipt.ID, "is stored; was it before?", receipt.Duplicate)
	}
	// Output:
	// order-1042 is stored; was it before? false
	// order-1042 is stored; was it before? true
}

func ExamplePublisher_PublishAll() {
	nc, stop := connectExample()
	defer stop()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	results, err := streams.NewPublisher(js).PublishAll(context.Background(), []streams.Outgoing{
		{To: streams.EndpointID{Capability: "analytics", App: "quiz"}, ID: "order-1", Payload: []byte(`{}`)},
		{To: streams.EndpointID{Capability: "analytics", App: "quiz"}, ID: "order 2", Payload: []byte(`{}`)},
		{To: streams.EndpointID{Capability: "analytics", App: "quiz"}, ID: "order-3", Payload: []byte(`{}`)},
	})
	fmt.Println(err)
	for _, r := range results {
		fmt.Printf("%q %v\n", r.Receipt.ID, r.Err == nil)
	}
	// Output:
	// 1 of 3 events were not acknowledged, one of them: "order 2" can't be an event's id: use 1 to 64 letters, digits, '_' or '-'
	// "order-1" true
	// "" false
	// "order-3" true
}

func ExampleCaller_Call() {
	nc, stop := connectExample()
	defer stop()

	caller := streams.NewCaller(nc)
	for _, app := range []string{"quiz", "shop"} {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // Backstop answers before it is over
		reply, err := caller.Call(ctx, streams.EndpointID{Capability: "quizAnswer", App: app}, "", []byte(`{"quizId":"q1","answer":"B"}`))
		cancel()
		var said *streams.CallError
		switch {
		case err == nil:
			fmt.Printf("%s: %s, from %s\n", app, reply.Data, reply.Source)
		case errors.Is(err, streams.ErrAppUnavailable):
			fmt.Printf("%s: try again later\n", app)
		case errors.As(err, &said) && said.Source == streams.SourceApp:
			fmt.Printf("%s: the app said %s\n", app, said.Code)
		default:
			fmt.Printf("%s: %v\n", app, err)
		}
	}
	// Output:
	// quiz: {"correct":true}, from app
	// shop: try again later
}

// What a service answers by itself where Backstop can't: here no replica takes
// calls of this capability.
func ExampleWithLocalFallback() {
	nc, stop := connectExample()
	defer stop()

	caller := streams.NewCaller(nc, streams.WithLocalFallback(func(_ context.Context, err error) (json.RawMessage, error) {
		fmt.Println("no backstop:", errors.Is(err, streams.ErrNoBackstop))
		return json.RawMessage(`{"accepted":false}`), nil
	}))
	reply, err := caller.Call(context.Background(), streams.EndpointID{Capability: "participantRegistration", App: "quiz"}, "", []byte(`{"name":"Ann"}`))
	fmt.Println(string(reply.Data), reply.Source, reply.Reason, err)
	// Output:
	// no backstop: true
	// {"accepted":false} local no_backstop <nil>
}
