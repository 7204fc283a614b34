package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"backstop/cmd/backstop/demo"
	"backstop/streams"
)

func newDemoCommand(a *app) *cobra.Command {
	var span time.Duration
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch it work: a pipeline, three sample apps and traffic, in a temporary directory",
		Long: `Starts a pipeline with an embedded NATS server in a temporary directory, three
sample apps (one healthy, one slow, one that crashes), applies their manifests,
publishes events, and tells what happens and what to try from another terminal.
Ctrl-C stops it and removes everything.`,
		Example: `  backstop demo
  backstop demo --for 30s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.serveConfig()
			if err != nil {
				return err
			}
			if cfg.NATSURL != "" {
				return hint(errors.New("the demo runs a NATS server of its own, and NATS_URL is set"), "NATS_URL= backstop demo")
			}
			ctx := cmd.Context()
			if span > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, span)
				defer cancel()
			}
			return a.demo(ctx, cfg)
		},
	}
	cmd.Flags().DurationVar(&span, "for", 0, "stop by itself after this time (default: at Ctrl-C)")
	return cmd
}

// demo runs until ctx ends.
func (a *app) demo(ctx context.Context, cfg Config) error {
	dir, err := os.MkdirTemp("", "backstop-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cfg.DataDir, cfg.SecretsKeyFile = dir, filepath.Join(dir, "secrets.key")
	cfg.AllowedNetworks = append(cfg.AllowedNetworks, netip.MustParsePrefix("127.0.0.0/8"))
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelError}))

	apps, err := demo.Apps(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, sample := range apps {
		group.Go(func() error { return sample.Run(ctx) })
	}
	up := make(chan running, 1)
	group.Go(func() error { return serve(ctx, cfg, log, func(at running) { up <- at }) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case at := <-up:
			err := a.play(ctx, at, apps)
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it ended because it was told to
			}
			return err
		}
	})
	err = group.Wait()
	fmt.Fprintln(a.out, "stopped; everything is removed")
	return err
}

// play applies the manifests, publishes, and tells what happens.
func (a *app) play(ctx context.Context, at running, apps []*demo.App) error {
	fmt.Fprintf(a.out, "Backstop runs: the dashboard at %[2]s, NATS at %[1]s\n\n", at.NATS, at.HTTP)
	for _, sample := range apps {
		secret, err := a.applySample(ctx, sample)
		if err != nil {
			return err
		}
		sample.SetSecret(secret)
		fmt.Fprintf(a.out, "  app %-9s %s\n", sample.Name, sample.About)
	}
	fmt.Fprint(a.out, demoTips)

	nc, err := nats.Connect(at.NATS)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	sub, err := nc.Subscribe(streams.NoticeSubject("*"), a.tellNotice)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.traffic(ctx, js, apps) })
	for _, sample := range apps {
		for _, call := range sample.Calls() {
			group.Go(func() error { return a.ask(ctx, streams.NewCaller(nc), sample, call) })
		}
	}
	return group.Wait()
}

const demoTips = `
Five events a second go to each, and to some a call. Try, in another terminal:

  bin/backstop status                       what is going on
  bin/backstop breakers list                whose circuit is open
  bin/backstop alerts                       what an operator should look at
  bin/backstop attempts --app slow          what became of each request
  bin/backstop dlq list                     what nobody could take
  bin/backstop dlq replay --app crashing    try those again
  bin/backstop publish analytics healthy '{"hello":"world"}'
  bin/backstop call quizAnswer slow '{"quizId":"q1"}'    who answers, and how fast
  bin/backstop pending list                 what waits for a person
  nats consumer info LANES analytics__crashing     a paused lane, by the nats CLI

Ctrl-C stops it.

`

// applySample applies the app's manifest as an operator would, and returns the
// secret that was made for it.
func (a *app) applySample(ctx context.Context, sample *demo.App) (string, error) {
	var out bytes.Buffer
	root := newRoot(bytes.NewReader(sample.Manifest()), &out, a.err)
	root.SetArgs([]string{"apps", "apply", "--json", "-"})
	if err := root.ExecuteContext(ctx); err != nil {
		return "", fmt.Errorf("apply the manifest of %s: %w", sample.Name, err)
	}
	var applied struct{ Secret string }
	if err := json.Unmarshal(out.Bytes(), &applied); err != nil {
		return "", fmt.Errorf("apply the manifest of %s: %w", sample.Name, err)
	}
	return applied.Secret, nil
}

// tellNotice prints what a person would be told.
func (a *app) tellNotice(msg *nats.Msg) {
	var n streams.Notice
	if json.Unmarshal(msg.Data, &n) == nil {
		fmt.Fprintf(a.out, "%s  ! %-16s %s\n", n.Time.Local().Format(time.TimeOnly), n.Kind, n.Message)
	}
}

// demoPatience is what a call of the demo waits: more than its webhook's timeout.
const demoPatience = 3 * time.Second

// ask makes a call to an app again and again, and tells whenever somebody else answers
// than before, or for another reason.
func (a *app) ask(ctx context.Context, caller *streams.Caller, sample *demo.App, call demo.Call) error {
	to := streams.EndpointID{Capability: call.Capability, App: sample.Name}
	again := time.NewTicker(call.Every)
	defer again.Stop()
	var last streams.Reply
	for {
		patience, cancel := context.WithTimeout(ctx, demoPatience)
		began := time.Now()
		reply, err := caller.Call(patience, to, "", []byte(call.Payload))
		took := time.Since(began)
		cancel()
		if _, said := errors.AsType[*streams.CallError](err); err != nil && !said {
			return err // also the end of ctx
		}
		if reply.Source != last.Source || reply.Reason != last.Reason {
			fmt.Fprintf(a.out, "%s  ? call %s to %s, %.1f ms. %s\n", time.Now().Format(time.TimeOnly), to.Capability, to.App,
				float64(took.Microseconds())/1000, demoAnswer(reply))
		}
		last = reply
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
	}
}

// demoAnswer says who answered, why, and what.
func demoAnswer(r streams.Reply) string {
	s := sourceNames[r.Source]
	if r.Reason != "" {
		s += " (" + r.Reason + ")"
	}
	return s + " " + string(orNull(r.Data))
}

// traffic publishes five events a second to each app, and sums up every few seconds.
func (a *app) traffic(ctx context.Context, js jetstream.JetStream, apps []*demo.App) error {
	publisher := streams.NewPublisher(js)
	publish, report := time.NewTicker(200*time.Millisecond), time.NewTicker(4*time.Second)
	defer publish.Stop()
	defer report.Stop()
	for n := 1; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-publish.C:
			for _, sample := range apps {
				to := streams.EndpointID{Capability: "analytics", App: sample.Name}
				if _, err := publisher.Publish(ctx, to, "", fmt.Appendf(nil, `{"event":"quiz_completed","n":%d}`, n)); err != nil {
					return err
				}
			}
			n++
		case now := <-report.C:
			fmt.Fprintf(a.out, "%s  published %d to each;", now.Format(time.TimeOnly), n-1)
			for _, sample := range apps {
				seen, answered, _ := sample.Counts()
				fmt.Fprintf(a.out, "  %s: %d requests, %d done", sample.Name, seen, answered)
			}
			fmt.Fprintln(a.out)
		}
	}
}
