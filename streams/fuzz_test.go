package streams_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"backstop/streams"
)

// Whatever a publisher puts into a message, it is read as an event with an id
// that can be sent on, and believed in nothing that only Backstop may say.
func FuzzDecode(f *testing.F) {
	f.Add("events.analytics.quiz", "evt_1", "", "3", "2", "1-1", "2026-11-24T05:04:40Z", "{}")
	f.Add("lanes.analytics.quiz", "evt_1", "evt_2", "3", "2", "1-1", "2026-11-24T05:04:40.479854938Z", "{}")
	f.Add("lanes.analytics.quiz", "a\r\nb", "", "-1", "99999999999999999999", "", "yesterday", "")
	f.Add("events.analytics", "", "ü", "0x10", " 1", "\x00", "0000-00-00T00:00:00Z", "\xff")
	f.Add("dlq.analytics._", "", "", "", "", "", "", "")
	f.Add("events..quiz", "", "", "", "", "", "", "")
	stored := time.Unix(1_700_000_000, 5)
	f.Fuzz(func(t *testing.T, subject, id, msgID, attempts, hops, origin, at, payload string) {
		h := nats.Header{
			streams.HeaderID: {id}, streams.HeaderMsgID: {msgID}, streams.HeaderAttempts: {attempts}, streams.HeaderHops: {hops},
			streams.HeaderOrigin: {origin}, streams.HeaderNotBefore: {at}, streams.HeaderPublishedAt: {at},
		}
		e, err := streams.DecodeRaw(&jetstream.RawStreamMsg{Subject: subject, Header: h, Data: []byte(payload), Sequence: 7, Time: stored})
		if err != nil {
			return
		}
		kind, endpoint, err := streams.ParseSubject(subject)
		if err != nil || endpoint != e.EndpointID || string(e.Payload) != payload {
			t.Fatalf("%q was read as an event of %v", subject, e.EndpointID)
		}
		if kind == streams.Events {
			if !streams.ValidID(e.ID) {
				t.Errorf("the id is %q", e.ID)
			}
			if e.Attempts != 0 || e.Hops != 0 || !e.NotBefore.IsZero() || !e.PublishedAt.Equal(stored) || e.Origin == origin {
				t.Errorf("a publisher was believed: %+v", e)
			}
		}
		if e.Attempts < 0 || e.Hops < 0 {
			t.Errorf("%d attempts and %d hops", e.Attempts, e.Hops)
		}
		if kind != streams.Lanes || e.Hops > 1<<30 {
			return
		}
		// Parked once more, it is the same event.
		msg := e.LaneMsg()
		again, err := streams.DecodeRaw(&jetstream.RawStreamMsg{Subject: msg.Subject, Header: msg.Header, Data: msg.Data, Sequence: 8, Time: stored})
		if err != nil {
			t.Fatal(err)
		}
		if again.ID != e.ID || again.Attempts != e.Attempts || again.Hops != e.Hops+1 || again.Origin != e.Origin {
			t.Errorf("%+v became %+v", e, again)
		}
	})
}

// A dead letter of any content is read, and what is written of it is read back.
func FuzzDecodeDeadLetter(f *testing.F) {
	f.Add("dlq.analytics.quiz", "evt_1", "rejected", "the app answered 400", 400, "{}")
	f.Add("dlq.analytics._", "", "no_route", "a\nb\x7f", 0, "")
	f.Add("events.analytics.quiz", "", "", "", -1, "")
	f.Fuzz(func(t *testing.T, subject, id, reason, text string, status int, payload string) {
		h := nats.Header{streams.HeaderID: {id}, streams.HeaderReason: {reason}, streams.HeaderError: {text}, streams.HeaderStatus: {strconv.Itoa(status)}}
		d, err := streams.DecodeDeadLetter(subject, h, []byte(payload), 1)
		if err != nil {
			return
		}
		if len(subject) > 128 {
			return // names may be cut
		}
		msg := d.Msg()
		for name, values := range msg.Header {
			for _, c := range values[0] {
				if name == streams.HeaderError && (c < ' ' || c == 0x7f) {
					t.Errorf("%s holds %q, which could start another header", name, values[0])
				}
			}
		}
		again, err := streams.DecodeDeadLetter(msg.Subject, msg.Header, msg.Data, 2)
		if err != nil || again.EndpointID != d.EndpointID || again.ID != d.ID || again.Status != d.Status || string(again.Payload) != payload {
			t.Errorf("%+v became %+v, %v", d, again, err)
		}
	})
}
