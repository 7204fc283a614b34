package streams_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"backstop/streams"
)

// notice publishes a notice; patiently, as a server that was restarted is not
// ready at once.
func (b *bundle) notice(kind streams.NoticeKind, app, message string) {
	b.Helper()
	msg, err := streams.Notice{Kind: kind, App: app, Time: time.Now().UTC(), Message: message, Sequence: 99}.Msg()
	b.must(err)
	for {
		if _, err = b.js.PublishMsg(b.ctx, msg); err == nil || b.ctx.Err() != nil {
			break
		}
	}
	b.must(err)
}

func TestNoticesAreSelected(t *testing.T) {
	b := setup(t)
	log := streams.NewNoticeLog(b.js)
	b.notice(streams.NoticeBreakerOpened, "quiz", "1")
	b.notice(streams.NoticeBreakerClosed, "quiz", "2")
	// A message of somebody else's must not hide the rest.
	_, err := b.js.Publish(b.ctx, "notices.nonsense", []byte("not JSON"))
	b.must(err)
	b.notice(streams.NoticeBreakerOpened, "shop", "4")
	for _, tc := range []struct {
		filter streams.NoticeFilter
		want   string
		why    string
	}{
		{streams.NoticeFilter{}, "124", "all, in their order"},
		{streams.NoticeFilter{Kind: streams.NoticeBreakerOpened}, "14", "of a kind"},
		{streams.NoticeFilter{App: "quiz"}, "12", "of an app"},
		{streams.NoticeFilter{Capability: "email"}, "", "of a capability without any"},
		{streams.NoticeFilter{Before: 4}, "12", "before one of them"},
		{streams.NoticeFilter{Before: 1}, "", "before the first"},
		{streams.NoticeFilter{After: 1}, "24", "behind one of them"},
		{streams.NoticeFilter{After: 4}, "", "behind the last"},
		{streams.NoticeFilter{After: 1, Before: 4}, "2", "between two"},
		{streams.NoticeFilter{Since: time.Now().Add(-time.Hour)}, "124", "all are younger"},
		{streams.NoticeFilter{Since: time.Now().Add(time.Hour)}, "", "none is as young"},
	} {
		got := ""
		for n, err := range log.Select(b.ctx, tc.filter) {
			b.must(err)
			if got += n.Message; n.Message != fmt.Sprint(n.Sequence) {
				t.Errorf("notice %q has the sequence %d", n.Message, n.Sequence)
			}
		}
		newest := ""
		for n, err := range log.SelectNewest(b.ctx, tc.filter) {
			b.must(err)
			newest = n.Message + newest
		}
		if got != tc.want || newest != tc.want {
			t.Errorf("%s: %q, and newest first, reversed, %q, want %q", tc.why, got, newest, tc.want)
		}
	}
	if last, err := log.Last(b.ctx); err != nil || last != 4 {
		t.Errorf("the last is %d, %v, want 4", last, err)
	}
	stream, err := b.js.Stream(b.ctx, streams.NoticeStream)
	b.must(err)
	if n := stream.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left behind", n)
	}
}

// More than the windows of a scan from the end, with gaps in it and a filter
// that matches little.
func TestNoticesFromTheEnd(t *testing.T) {
	b := setup(t)
	const many = 1500 // 256 and 1024 are the first windows
	var want []uint64
	for i := 1; i <= many; i++ {
		app := "quiz"
		if i%100 == 0 {
			app = "rare"
		}
		msg, err := streams.Notice{Kind: streams.NoticeMisconfigured, App: app}.Msg()
		b.must(err)
		_, err = b.js.PublishMsgAsync(msg)
		b.must(err)
		if i%100 == 0 && i != 700 {
			want = append(want, uint64(i))
		}
	}
	<-b.js.PublishAsyncComplete()
	stream, err := b.js.Stream(b.ctx, streams.NoticeStream)
	b.must(err)
	for _, gone := range []uint64{1, 2, 700} {
		b.must(stream.DeleteMsg(b.ctx, gone))
	}
	var got []uint64
	for n, err := range streams.NewNoticeLog(b.js).SelectNewest(b.ctx, streams.NoticeFilter{App: "rare"}) {
		b.must(err)
		got = append(got, n.Sequence)
	}
	slices.Reverse(got)
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, err := range streams.NewNoticeLog(b.js).SelectNewest(b.ctx, streams.NoticeFilter{}) {
		b.must(err)
		break // a page takes no more than it shows
	}
	info, err := stream.Info(b.ctx)
	b.must(err)
	if info.State.Consumers != 0 {
		t.Errorf("%d consumers are left behind", info.State.Consumers)
	}
}

// A follower outlives the server: its consumer lives in the server's memory.
func TestFollowSurvivesARestart(t *testing.T) {
	b := setup(t)
	b.notice(streams.NoticeBreakerOpened, "quiz", "too early")
	b.notice(streams.NoticeBreakerOpened, "quiz", "before")
	told := make(chan streams.Notice, 100)
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() {
		done <- streams.NewNoticeLog(b.js).Follow(ctx, streams.NoticeFilter{App: "quiz", After: 1}, func(n streams.Notice) error {
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
	b.notice(streams.NoticeBreakerClosed, "shop", "somebody else's")
	b.notice(streams.NoticeBreakerClosed, "quiz", "after")
	expect("after")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Follow: %v", err)
	}
}

// A place that the stream has not reached, as after it was made anew, is the
// next notice; and whoever has enough ends it.
func TestFollowFromThePlaceInAnotherStream(t *testing.T) {
	b := setup(t)
	b.notice(streams.NoticeBreakerOpened, "quiz", "old")
	enough := errors.New("enough")
	done := make(chan error, 1)
	go func() {
		done <- streams.NewNoticeLog(b.js).Follow(b.ctx, streams.NoticeFilter{After: 1000}, func(n streams.Notice) error {
			if n.Message == "old" {
				return errors.New("an old notice is told again")
			}
			return enough
		})
	}()
	for {
		b.notice(streams.NoticeBreakerClosed, "quiz", "new") // until Follow has begun
		select {
		case err := <-done:
			if !errors.Is(err, enough) {
				t.Error(err)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}
