package streams

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// EndpointID names an endpoint: one app's webhook for one capability. It is
// the unit of timeout, breaker, retry and metrics. An empty App stands for a
// broadcast, which has no endpoint of its own.
type EndpointID struct {
	Capability string
	App        string
}

// String returns "capability/app", the form that logs and tables use.
func (e EndpointID) String() string { return e.Capability + "/" + e.App }

// Compare orders endpoints by capability, then by app, as slices.SortFunc asks.
func (e EndpointID) Compare(other EndpointID) int {
	return cmp.Or(strings.Compare(e.Capability, other.Capability), strings.Compare(e.App, other.App))
}

// Kind is the first token of a subject: what a message on it is.
type Kind string

// The kinds of subject. Services publish on Events and request on Calls;
// everything else is Backstop's own.
const (
	Events   Kind = "events"
	Calls    Kind = "calls"
	Lanes    Kind = "lanes"
	DLQ      Kind = "dlq"
	Results  Kind = "results"
	Attempts Kind = "attempts"
	Notices  Kind = "notices"
	Audits   Kind = "audit"
)

// Subjects beside those of endpoints.
const (
	// Replicas is the first token of what replicas tell each other.
	Replicas = "replicas"
	// Fallbacks is that of services that answer for apps (the handler
	// "service"), where a NATS with permissions lets Backstop publish.
	Fallbacks = "fallback"
	// Retired is that of streams which take no events any more.
	Retired = "retired"
)

// OwnWords are the first tokens of Backstop's own subjects.
func OwnWords() []string {
	return []string{
		string(Events), string(Calls), string(Lanes), string(DLQ), string(Results), string(Attempts), string(Notices), string(Audits),
		Replicas, Retired,
	}
}

// Reserved tells whether a message on the subject means something to Backstop, to
// NATS, or to services that answer for apps, so that no caller may choose that
// we publish there.
func Reserved(subject string) bool {
	first, _, _ := strings.Cut(subject, ".")
	return strings.HasPrefix(first, "$") || first == Fallbacks || slices.Contains(OwnWords(), first)
}

// NoApp is the app token in the dead-letter subject of a broadcast that no app
// could receive. An app can't have this name: names start with a letter or digit.
const NoApp = "_"

// Subject returns "<kind>.<capability>.<app>", or "<kind>.<capability>" when
// the endpoint has no app.
func (e EndpointID) Subject(k Kind) string {
	if e.App == "" {
		return string(k) + "." + e.Capability
	}
	return string(k) + "." + e.Capability + "." + e.App
}

// DeadLetterSubject returns where the endpoint's dead letters are stored:
// "dlq.<capability>.<app>", with NoApp in the place of a missing app, and a
// hash, as "_3f9a2c11d0e84b76", in that of a name that can't stand there.
func (e EndpointID) DeadLetterSubject() string {
	return EndpointID{Capability: deadLetterToken(e.Capability), App: deadLetterToken(e.App)}.Subject(DLQ)
}

// longestToken is the longest name that stands in a dead letter's subject as it
// is. Publishers may use any that NATS takes: one of 4,080 bytes, in a subject
// and with headers, made a line that the server closes the connection for, and
// with that connection ended all that the pipeline did (nats-server 2.15.2).
const longestToken = 128

// deadLetterToken returns the token of a name in dead letters' subjects: the
// name itself, if it is a token there and means nothing else. Names that are
// hashed are told by the dead letter's headers.
func deadLetterToken(name string) string {
	switch {
	case name == "":
		return NoApp
	case name == "*", name == ">", strings.Contains(name, "."), len(name) > longestToken, strings.HasSuffix(name, cut):
		sum := sha256.Sum256([]byte(cutName(name)))
		return NoApp + hex.EncodeToString(sum[:8])
	}
	return name
}

// cut ends a name that was cut.
const cut = "…"

// cutName returns the beginning of a name that is too long to be told; of what
// was cut it returns the same.
func cutName(name string) string {
	if len(name) <= longestToken {
		return name
	}
	return strings.ToValidUTF8(name[:longestToken], "") + cut
}

// nameOfToken returns the name that a token of a dead letter's subject stands
// for, given what the header says: a hash for one that is told there alone, and
// NoApp for none, or for an app that somebody took to have that name.
func nameOfToken(token, header string) string {
	if header != "" && (token == "" || strings.HasPrefix(token, NoApp)) {
		return header
	}
	return token
}

// NoticeSubject returns "notices.<kind>".
func NoticeSubject(kind string) string { return string(Notices) + "." + kind }

// ParseSubject splits "<kind>.<capability>.<app>" or "<kind>.<capability>". It
// checks the shape and not the alphabet: a publisher may have used any token
// that NATS allows, and such an event has to be dead-lettered under its own
// name rather than refused. In a dead letter's subject NoApp becomes an empty App.
func ParseSubject(subject string) (Kind, EndpointID, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 2 || len(tokens) > 3 {
		return "", EndpointID{}, fmt.Errorf("subject %q is not <kind>.<capability>[.<app>]", subject)
	}
	for _, t := range tokens {
		if t == "" || t == "*" || t == ">" {
			return "", EndpointID{}, fmt.Errorf("subject %q has an empty or wildcard token", subject)
		}
	}
	k, id := Kind(tokens[0]), EndpointID{Capability: tokens[1]}
	// "_" means "no app" only where we wrote it: an event published to
	// events.analytics._ is for an app that can't exist, not a broadcast.
	if len(tokens) == 3 && (k != DLQ || tokens[2] != NoApp) {
		id.App = tokens[2]
	}
	switch k {
	case Events, Calls, Lanes, DLQ, Results, Attempts:
		return k, id, nil
	default:
		return "", EndpointID{}, fmt.Errorf("subject %q: %q is not a kind of subject that has endpoints", subject, tokens[0])
	}
}

// The streams that exist once. Each capability adds one more; see EventStream.
const (
	LaneStream       = "LANES"
	DeadLetterStream = "DLQ"
	ResultStream     = "RESULTS"
	NoticeStream     = "NOTICES"
	AttemptStream    = "ATTEMPTS"
	AdvisoryStream   = "ADVISORIES"
	AuditStream      = "AUDIT"
)

// EventStreamPrefix starts the name of every capability's stream.
const EventStreamPrefix = "EVENTS_"

// EventConsumer is the durable that every capability's stream has: the shared
// lane of all healthy endpoints, pulled by all replicas.
const EventConsumer = "webhooks"

// AdvisoryConsumer is the durable that reads ADVISORIES.
const AdvisoryConsumer = "deadletters"

// NoticeConsumer is the durable that reads NOTICES for the apps that take them
// as events of the capability PlatformNotice.
const NoticeConsumer = "platformNotice"

// PlatformNotice is the capability whose events are Backstop's own notices: an
// app that declares it as async is told of them like of any other event.
const PlatformNotice = "platformNotice"

// EventStream returns the name of a capability's stream, "EVENTS_<capability>".
func EventStream(capability string) string { return EventStreamPrefix + capability }

// LaneConsumer returns the name of the endpoint's own durable on LANES:
// "<capability>__<app>". Names may hold "__" themselves, which would let two
// endpoints claim one durable ("a__b"+"c", "a"+"b__c"); those rare ones get a
// hash of their subject behind the name.
func (e EndpointID) LaneConsumer() string {
	name := e.Capability + "__" + e.App
	if strings.Count(name, "__") == 1 && !strings.Contains(name, "___") {
		return name
	}
	sum := sha256.Sum256([]byte(e.Subject(Lanes)))
	return name + "--" + hex.EncodeToString(sum[:4])
}

// The buckets, all JetStream key-value.
const (
	AppsBucket      = "apps"      // app → manifest
	BreakersBucket  = "breakers"  // <capability>.<app> → gate: open, forced open, disabled
	SecretsBucket   = "secrets"   // app → sealed signing secrets
	CacheBucket     = "cache"     // <capability>.<app>.<hash> → an answer for the cached fallback
	PendingBucket   = "pending"   // <capability>.<app>.<id> → a call that waits for a person
	CallbacksBucket = "callbacks" // <capability>.<app>.<origin> → the callback that an app owes
	HealthBucket    = "health"    // app → last health check
	LeasesBucket    = "leases"    // singleton task → replica
	AlertsBucket    = "alerts"    // <rule>[.<capability>.<app>] → what is the matter
	RollupsBucket   = "rollups"   // <minute>.<part> → what came of the minute's attempts
)
