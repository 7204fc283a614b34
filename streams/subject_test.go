package streams_test

import (
	"strings"
	"testing"

	"backstop/streams"
)

func TestValidName(t *testing.T) {
	for _, tc := range []struct {
		name string
		want bool
		why  string
	}{
		{"quiz", true, "letters"},
		{"a", true, "one letter is enough"},
		{"0-app_X", true, "digits, dash and underscore"},
		{strings.Repeat("a", 64), true, "as long as may be"},
		{strings.Repeat("a", 65), false, "one too long"},
		{"", false, "empty"},
		{"_", false, "stands for no app in a dead letter's subject"},
		{"-a", false, "starts with a dash, like an option of a command"},
		{"a.b", false, "two subject tokens"},
		{"a b", false, "a space ends a subject on the wire"},
		{"*", false, "a wildcard"},
		{"ä", false, "not ASCII"},
	} {
		if got := streams.ValidName(tc.name); got != tc.want {
			t.Errorf("ValidName(%q) = %v, want %v: %s", tc.name, got, tc.want, tc.why)
		}
		if err := streams.CheckName("app", tc.name); (err == nil) != tc.want {
			t.Errorf("CheckName(%q) = %v, but valid is %v", tc.name, err, tc.want)
		}
	}
}

func TestParseSubject(t *testing.T) {
	for _, tc := range []struct {
		subject string
		kind    streams.Kind
		id      streams.EndpointID
		bad     bool
		why     string
	}{
		{subject: "events.analytics.quiz", kind: streams.Events, id: streams.EndpointID{Capability: "analytics", App: "quiz"}, why: "one app"},
		{subject: "events.analytics", kind: streams.Events, id: streams.EndpointID{Capability: "analytics"}, why: "a broadcast"},
		{subject: "events.analytics._", kind: streams.Events, id: streams.EndpointID{Capability: "analytics", App: "_"}, why: "an app that can't exist, and no broadcast"},
		{subject: "dlq.analytics._", kind: streams.DLQ, id: streams.EndpointID{Capability: "analytics"}, why: "the dead letter of a broadcast"},
		{subject: "events.analytics.qu!z", kind: streams.Events, id: streams.EndpointID{Capability: "analytics", App: "qu!z"}, why: "odd tokens are dead-lettered under their own name"},
		{subject: "events", bad: true, why: "no capability"},
		{subject: "events.a.b.c", bad: true, why: "a token too many"},
		{subject: "events..b", bad: true, why: "an empty token"},
		{subject: "events.*.b", bad: true, why: "a wildcard"},
		{subject: "notices.fallback_used", bad: true, why: "notices have no endpoint"},
	} {
		kind, id, err := streams.ParseSubject(tc.subject)
		if (err != nil) != tc.bad || kind != tc.kind || id != tc.id {
			t.Errorf("ParseSubject(%q) = %q, %v, %v: %s", tc.subject, kind, id, err, tc.why)
		}
	}
}

func TestLaneConsumersAreDistinct(t *testing.T) {
	if got := (streams.EndpointID{Capability: "analytics", App: "quiz"}).LaneConsumer(); got != "analytics__quiz" {
		t.Errorf("LaneConsumer = %q, want the contract's analytics__quiz", got)
	}
	seen := map[string]streams.EndpointID{}
	for _, id := range []streams.EndpointID{
		{Capability: "a__b", App: "c"},
		{Capability: "a", App: "b__c"},
		{Capability: "a_", App: "b"},
		{Capability: "a", App: "b"},
		{Capability: "a__", App: "b"},
	} {
		name := id.LaneConsumer()
		if other, taken := seen[name]; taken {
			t.Errorf("%v and %v share the durable %q", id, other, name)
		}
		seen[name] = id
	}
}

func FuzzParseSubject(f *testing.F) {
	for _, s := range []string{"events.a.b", "events.a", "dlq.a._", "lanes.a.b", "", ".", "events.*.>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		kind, id, err := streams.ParseSubject(subject)
		if err != nil {
			return
		}
		back := id.Subject(kind)
		if kind == streams.DLQ {
			if len(subject) > 128 || strings.Contains(subject, "…") {
				return // a name that is told by a header
			}
			if back = id.DeadLetterSubject(); !strings.HasPrefix(subject+"."+streams.NoApp, back) {
				t.Fatalf("%q parses to %v, which writes %q", subject, id, back)
			}
			return
		}
		if back != subject {
			t.Fatalf("%q parses to %v, which writes %q", subject, id, back)
		}
	})
}
