package main

import (
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"backstop/consumers/rollup"
	"backstop/streams"
	"backstop/streams/bucket"
)

// cmdAttempt writes an entry of the delivery log:
// attempt ID CAPABILITY APP VERDICT REASON AGE. A REASON of "-" stands for none.
func cmdAttempt(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 6 {
		ts.Fatalf("usage: attempt ID CAPABILITY APP VERDICT REASON AGE")
	}
	age, err := time.ParseDuration(args[5])
	ts.Check(err)
	entry := streams.Attempt{
		ID: args[0], Capability: args[1], App: args[2], Verdict: args[3], Reason: args[4], Time: time.Now().Add(-age),
		Attempt: 1, DurationMs: 12.5, Requested: args[3] != "refused", Success: args[3] == "delivered", Status: 200,
	}
	if entry.Reason == "-" {
		entry.Reason = ""
	} else {
		entry.Status, entry.Error, entry.Answer = 503, "the app answered 503 Service Unavailable", "sorry"
	}
	ctx, js := scriptJetStream(ts)
	msg, err := entry.Msg()
	ts.Check(err)
	_, err = js.PublishMsg(ctx, msg)
	ts.Check(err)
}

// cmdAlert raises an alert: alert RULE CAPABILITY APP MESSAGE. A "-" stands for
// no endpoint.
func cmdAlert(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 4 {
		ts.Fatalf("usage: alert RULE CAPABILITY APP MESSAGE")
	}
	a := streams.Alert{AlertKey: streams.AlertKey{Rule: streams.AlertRule(args[0])}, Since: time.Now().Add(-time.Minute), Message: args[3]}
	if args[2] != "-" {
		a.Capability, a.App = args[1], args[2]
	}
	ctx, js := scriptJetStream(ts)
	kv, err := js.KeyValue(ctx, streams.AlertsBucket)
	ts.Check(err)
	_, err = streams.NewAlerts(kv).Raise(ctx, a)
	ts.Check(err)
}

// cmdNotice publishes a notice: notice KIND CAPABILITY APP MESSAGE.
func cmdNotice(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 4 {
		ts.Fatalf("usage: notice KIND CAPABILITY APP MESSAGE")
	}
	ctx, js := scriptJetStream(ts)
	msg, err := streams.Notice{Kind: streams.NoticeKind(args[0]), Capability: args[1], App: args[2], Time: time.Now(), Message: args[3]}.Msg()
	ts.Check(err)
	_, err = js.PublishMsg(ctx, msg)
	ts.Check(err)
}

// cmdRollup stores what came of an endpoint's attempts in this minute, each of
// which took as many milliseconds: rollup CAPABILITY APP ATTEMPTS SUCCEEDED MS.
func cmdRollup(ts *testscript.TestScript, neg bool, args []string) {
	noNegation(ts, neg)
	if len(args) != 5 {
		ts.Fatalf("usage: rollup CAPABILITY APP ATTEMPTS SUCCEEDED MS")
	}
	var numbers [3]int
	for i, arg := range args[2:] {
		n, err := strconv.Atoi(arg)
		ts.Check(err)
		numbers[i] = n
	}
	fold := &rollup.Fold{}
	for i := range numbers[0] {
		fold.Add(uint64(i+1), time.Now(), streams.EndpointID{Capability: args[0], App: args[1]}, rollup.Entry{
			Attempt: 1, Requested: true, Success: i < numbers[1], Reason: "status", DurationMs: float64(numbers[2]),
		})
	}
	ctx, js := scriptJetStream(ts)
	kv, err := js.KeyValue(ctx, streams.RollupsBucket)
	ts.Check(err)
	entries, err := bucket.List(ctx, kv)
	ts.Check(err)
	for _, part := range fold.Unstored() {
		part.Number, part.Parts = len(entries), len(entries)+1 // beside what is there
		value, err := part.Encode()
		ts.Check(err)
		_, err = kv.Put(ctx, part.Key(), value)
		ts.Check(err)
	}
}
