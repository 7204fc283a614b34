package streams_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"backstop/streams"
)

// More than the windows of a scan from the end, with gaps in it and a filter
// that matches little.
func TestSelectNewest(t *testing.T) {
	b := setup(t)
	letters := streams.NewDeadLetters(b.js)
	stream, err := b.js.Stream(b.ctx, streams.DeadLetterStream)
	b.must(err)
	const many = 1500 // 256 and 1024 are the first windows
	var rare []uint64
	for i := range many {
		reason := streams.Exhausted
		if i%100 == 0 {
			reason = streams.Expired
			rare = append(rare, uint64(i+1))
		}
		b.must(letters.Store(b.ctx, letter(fmt.Sprint("e", i), fmt.Sprint("o", i), reason, time.Now())))
	}
	for _, gone := range []uint64{1, 2, 700, many} {
		b.must(stream.DeleteMsg(b.ctx, gone))
	}
	sequences := func(f streams.Filter, newest bool) []uint64 {
		read := letters.Select
		if newest {
			read = letters.SelectNewest
		}
		var found []uint64
		for d, err := range read(b.ctx, f) {
			b.must(err)
			found = append(found, d.Sequence)
			if f.WithoutPayload && (len(d.Payload) != 0 || d.Size == 0) || !f.WithoutPayload && d.Size != len(d.Payload) {
				t.Fatalf("payload of %d bytes, size %d, without: %v", len(d.Payload), d.Size, f.WithoutPayload)
			}
		}
		return found
	}
	rare = rare[1:] // the first was removed
	for _, tc := range []struct {
		filter streams.Filter
		want   []uint64
		why    string
	}{
		{streams.Filter{Reason: streams.Expired}, rare, "all windows"},
		{streams.Filter{Reason: streams.Expired, WithoutPayload: true}, rare, "headers alone"},
		{streams.Filter{Reason: streams.Expired, Through: 901}, rare[:9], "up to one of them"},
		{streams.Filter{Reason: streams.Expired, After: 901}, rare[9:], "behind one of them"},
		{streams.Filter{After: 1497, Through: 1498}, []uint64{1498}, "one"},
		{streams.Filter{Sequences: []uint64{3, 700, 1400}}, []uint64{3, 1400}, "by sequence, of which one is gone"},
		{streams.Filter{After: 5000}, nil, "beyond the end"},
		{streams.Filter{Through: 2}, nil, "before the beginning"},
	} {
		if got := sequences(tc.filter, false); !slices.Equal(got, tc.want) {
			t.Errorf("%s: oldest first %v, want %v", tc.why, got, tc.want)
		}
		got := sequences(tc.filter, true)
		slices.Reverse(got)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: newest first, reversed, %v, want %v", tc.why, got, tc.want)
		}
	}
	if got := len(sequences(streams.Filter{}, true)); got != many-4 {
		t.Errorf("%d in all, want %d", got, many-4)
	}
	// A page takes no more than it shows, and leaves no consumer.
	for d, err := range letters.SelectNewest(b.ctx, streams.Filter{}) {
		b.must(err)
		if d.Sequence != many-1 {
			t.Errorf("the newest is %d", d.Sequence)
		}
		break
	}
	info, err := stream.Info(b.ctx)
	b.must(err)
	if info.State.Consumers != 0 {
		t.Errorf("%d consumers are left behind", info.State.Consumers)
	}
}

func TestAudit(t *testing.T) {
	b := setup(t)
	audit := streams.NewAudit(b.js)
	for i, by := range []string{"ann", "bob", "ann"} {
		b.must(audit.Record(b.ctx, streams.AuditEntry{
			Time: time.Now().UTC(), By: by, Via: "command", What: streams.AuditAppApplied, App: fmt.Sprint("app", i), After: []byte(`{"a":1}`),
		}))
	}
	// A message of somebody else's must not hide the rest.
	_, err := b.js.Publish(b.ctx, "audit.nonsense", []byte("not JSON"))
	b.must(err)
	b.must(audit.Record(b.ctx, streams.AuditEntry{By: "bob", What: streams.AuditBreakerReset, App: "app0", Capability: "email"}))
	for _, tc := range []struct {
		filter streams.AuditFilter
		want   string
	}{
		{streams.AuditFilter{}, "5 3 2 1"},
		{streams.AuditFilter{By: "ann"}, "3 1"},
		{streams.AuditFilter{What: streams.AuditAppApplied}, "3 2 1"},
		{streams.AuditFilter{App: "app0"}, "5 1"},
		{streams.AuditFilter{Capability: "email"}, "5"},
		{streams.AuditFilter{Before: 3}, "2 1"},
		{streams.AuditFilter{Before: 1}, ""},
		{streams.AuditFilter{Since: time.Now().Add(time.Hour)}, ""},
		{streams.AuditFilter{Since: time.Now().Add(-time.Hour)}, "5 3 2 1"},
	} {
		got := ""
		for e, err := range audit.Entries(b.ctx, tc.filter) {
			b.must(err)
			if got != "" {
				got += " "
			}
			got += fmt.Sprint(e.Sequence)
		}
		if got != tc.want {
			t.Errorf("%+v selects %q, want %q", tc.filter, got, tc.want)
		}
	}
	// What is on record stays there.
	stream, err := b.js.Stream(b.ctx, streams.AuditStream)
	b.must(err)
	if stream.DeleteMsg(b.ctx, 1) == nil || stream.Purge(b.ctx) == nil {
		t.Error("an entry can be removed")
	}
	b.must(b.topology.Ensure(b.ctx)) // which must not try to change that
}

func noticeOf(b *bundle, kind streams.NoticeKind, app, message string) {
	b.Helper()
	msg, err := streams.Notice{Kind: kind, App: app, Time: time.Now().UTC(), Message: message}.Msg()
	b.must(err)
	for { // while a restarted server is not ready
		if _, err = b.js.PublishMsg(b.ctx, msg); err == nil || b.ctx.Err() != nil {
			break
		}
	}
	b.must(err)
}

func TestNewestNotices(t *testing.T) {
	b := setup(t)
	noticeOf(b, streams.NoticeBreakerOpened, "quiz", "1")
	noticeOf(b, streams.NoticeBreakerClosed, "quiz", "2")
	noticeOf(b, streams.NoticeBreakerOpened, "shop", "3")
	for _, tc := range []struct {
		filter streams.NoticeFilter
		want   string
	}{
		{streams.NoticeFilter{}, "321"}, {streams.NoticeFilter{Kind: streams.NoticeBreakerOpened}, "31"},
		{streams.NoticeFilter{App: "quiz"}, "21"}, {streams.NoticeFilter{Before: 3}, "21"}, {streams.NoticeFilter{Before: 1}, ""},
	} {
		got := ""
		for n, err := range streams.NewNoticeLog(b.js).Newest(b.ctx, tc.filter) {
			b.must(err)
			got += n.Message
		}
		if got != tc.want {
			t.Errorf("%+v selects %q, want %q", tc.filter, got, tc.want)
		}
	}
}

// A follower outlives the server: its consumer lives in the server's memory.
func TestFollowSurvivesARestart(t *testing.T) {
	b := setup(t)
	log := streams.NewNoticeLog(b.js)
	noticeOf(b, streams.NoticeBreakerOpened, "quiz", "before")
	told := make(chan streams.StoredNotice, 100)
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() {
		done <- log.Follow(ctx, 0, func(n streams.StoredNotice) error {
			told <- n
			return nil
		})
	}()
	expect := func(message string) {
		t.Helper()
		select {
		case n := <-told:
			if n.Message != message {
				t.Errorf("told %q, want %q", n.Message, message)
			}
		case err := <-done:
			t.Fatalf("ended: %v", err)
		case <-b.ctx.Done():
			t.Fatalf("%q is never told", message)
		}
	}
	expect("before")
	b.srv.Restart()
	noticeOf(b, streams.NoticeBreakerClosed, "quiz", "after")
	expect("after")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Follow: %v", err)
	}
}
