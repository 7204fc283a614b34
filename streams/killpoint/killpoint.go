// Package killpoint names the places in the program where being killed is most
// likely to lose or repeat something: between a store and what it allows.
//
// In a normal build Here is empty and inlined. Under the build tag "faults" it
// ends the process with SIGKILL when the environment asks for it:
//
//	BACKSTOP_KILL=letter_stored:17    at the 17th visit of that point
//	BACKSTOP_KILL_RECORD=FILE         notes there which points were visited
//	BACKSTOP_BROKEN=ack_first         makes a mistake on purpose (see Broken)
//
// It is a leaf, so that every package that stores something may use it.
package killpoint

// Point is one place.
type Point string

// The points, in the order in which an event may come past them.
const (
	StreamMade        Point = "stream_made"        // a stream is made or updated, the next is not
	CapabilityMade    Point = "capability_made"    // a manifest was taken up and its stream made, its lane not begun
	CopyStored        Point = "copy_stored"        // one copy of a broadcast is stored, others may not be
	CopiesStored      Point = "copies_stored"      // all are, the broadcast is not acknowledged
	RequestSent       Point = "request_sent"       // the app has begun to answer
	Answered          Point = "answered"           // the outcome is known, nothing is done about it
	LastAttemptFailed Point = "last_attempt"       // the same, and no attempt is left
	AwaitStored       Point = "await_stored"       // the callback to wait for is on record, the event not acknowledged
	Acknowledged      Point = "acknowledged"       // the ack of a delivered event is sent, not confirmed
	LaneStored        Point = "lane_stored"        // an event is stored in its own lane, and not acknowledged where it was
	LetterStored      Point = "letter_stored"      // a dead letter is stored, and its event not acknowledged
	BreakerOpened     Point = "breaker_opened"     // here, and no replica was told
	LaneMaking        Point = "lane_making"        // events are parked, and their durable is not made
	LaneMade          Point = "lane_made"          // it is made, and nothing pulled
	LaneEmpty         Point = "lane_empty"         // the lane is found empty, its durable not removed
	LaneRemoved       Point = "lane_removed"       // it is removed, the runner not ended
	ResultStored      Point = "result_stored"      // a callback's result is published, and not noted as received
	RedeliveryStored  Point = "redelivery_stored"  // an overdue callback's event is parked, its entry still there
	DecisionQueued    Point = "decision_queued"    // an approved call is an event, its result not published
	DecisionTold      Point = "decision_told"      // its result is published, the decision not marked as done
	Trimming          Point = "trimming"           // what may be purged is known, and not purged
	Draining          Point = "draining"           // everything in flight has settled, acks are not flushed
	SecretStored      Point = "secret_stored"      // by a command: an app's secret is stored, its manifest not
	ManifestStored    Point = "manifest_stored"    // by a command: it is, and nothing was said of it
	DeadLetterDecided Point = "deadletter_decided" // by a command: published again, or its discarding noted, and not removed
)

// Points are all of them.
func Points() []Point {
	return []Point{
		StreamMade, CapabilityMade, CopyStored, CopiesStored, RequestSent, Answered, LastAttemptFailed, AwaitStored, Acknowledged,
		LaneStored, LetterStored, BreakerOpened, LaneMaking, LaneMade, LaneEmpty, LaneRemoved, ResultStored, RedeliveryStored,
		DecisionQueued, DecisionTold, Trimming, Draining, SecretStored, ManifestStored, DeadLetterDecided,
	}
}

// Mistake is something that a broken build does, to show that the fault rig
// notices.
type Mistake string

// The mistakes.
const (
	AckFirst       Mistake = "ack_first"         // an event is acknowledged before its request is made
	AckBeforeStore Mistake = "ack_before_letter" // … before its dead letter is stored
	Unstable       Mistake = "unstable_payload"  // a dead letter's payload is changed
	Impatient      Mistake = "impatient"         // retries don't wait
)
