package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams"
	"backstop/streams/secrets"
)

// A command that meets a pipeline between opening its port and making its
// streams, buckets and public key waits for them, and then does its work.
func TestCommandWaitsForStart(t *testing.T) {
	const manifest = `{"appId": "quiz", "baseUrl": "https://quiz.example.com", "webhooks": {"rules": {"path": "/r"}}}`
	for _, test := range []struct {
		args    []string
		streams bool   // the streams and buckets are there already
		want    string // in what it prints
		why     string
	}{
		{[]string{"status", "--interval", "0"}, false, "All closed.", "streams first, and then a bucket"},
		{[]string{"dlq", "list", "--json"}, false, "[]\n", "a stream alone"},
		{[]string{"breakers", "list", "--json"}, false, "[]\n", "a bucket alone"},
		{[]string{"apps", "apply", "-"}, false, "Secret: whsec_", "buckets and the public key"},
		{[]string{"apps", "apply", "-"}, true, "Secret: whsec_", "the public key alone"},
	} {
		t.Run(test.args[0]+", "+test.why, func(t *testing.T) {
			cleanEnvironment(t)
			srv := natstest.Start(t, natstest.Listen())
			js := srv.JetStream()
			if test.streams {
				startPipeline(t, js, false)
			}
			t.Setenv("NATS_URL", srv.URL())
			var out bytes.Buffer
			said, saidWriter := io.Pipe()
			code := make(chan int, 1)
			go func() {
				code <- run(test.args, strings.NewReader(manifest), &out, saidWriter)
				_ = saidWriter.Close()
			}()
			words := bufio.NewScanner(said)
			if !words.Scan() || !strings.HasPrefix(words.Text(), "Waiting for `backstop serve`") {
				t.Fatalf("it said %q instead of waiting; exit code %d", words.Text(), <-code)
			}
			startPipeline(t, js, true)
			var rest strings.Builder
			for words.Scan() {
				rest.WriteString(words.Text() + "\n")
			}
			if got := <-code; got != exitOK || !strings.Contains(out.String(), test.want) {
				t.Errorf("exit code %d, printed %q, said %q", got, out.String(), rest.String())
			}
			if strings.Contains(rest.String(), "Waiting") {
				t.Errorf("it said twice that it waits: %q", rest.String())
			}
		})
	}
}

// startPipeline does what `serve` does before it consumes, the public key last
// or not yet.
func startPipeline(t *testing.T, js jetstream.JetStream, publicKey bool) {
	t.Helper()
	if err := streams.NewTopology(js, streams.Settings{}).Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !publicKey {
		return
	}
	kv, err := js.KeyValue(t.Context(), streams.SecretsBucket)
	if err != nil {
		t.Fatal(err)
	}
	key, err := secrets.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := secrets.Publish(t.Context(), kv, key); err != nil {
		t.Fatal(err)
	}
}

// What never comes is missing after the deadline as it would be at once; what
// no start makes isn't waited for; and Ctrl-C ends the wait.
func TestStartIsOver(t *testing.T) {
	js := natstest.Start(t).JetStream()
	late := &startingJetStream{JetStream: js}
	if _, err := late.Stream(t.Context(), streams.LaneStream); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("LANES after the deadline: %v", err)
	}
	if _, err := late.KeyValue(t.Context(), streams.SecretsBucket); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Errorf("secrets after the deadline: %v", err)
	}
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: streams.SecretsBucket}); err != nil {
		t.Fatal(err)
	}
	kv, err := late.KeyValue(t.Context(), streams.SecretsBucket)
	if err != nil {
		t.Fatalf("secrets without a public key, after the deadline: %v", err)
	}
	if err := secrets.NewStore(kv).Create(t.Context(), "quiz", secrets.Generate()); !errors.Is(err, secrets.ErrNoPublicKey) {
		t.Errorf("a secret without a public key: %v", err)
	}

	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	early := &startingJetStream{JetStream: js, deadline: time.Now().Add(time.Hour), waiting: interrupt}
	if _, err := early.Stream(ctx, streams.EventStream("analytics")); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("the stream of a capability: %v", err)
	}
	if _, err := early.KeyValue(ctx, streams.AppsBucket); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
