package consumers_test

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"backstop/consumers"
	"backstop/streams"
	"backstop/streams/logtest"
)

// told has a replica log into a buffer.
func told(j *logtest.Buffer) func(*consumers.Config) {
	return func(c *consumers.Config) {
		c.Log = slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
}

// park stores an event in its endpoint's own lane, to be tried at the given time.
func (b *bundle) park(id streams.EndpointID, name string, at time.Time) {
	b.Helper()
	_, err := b.js.PublishMsg(b.ctx, streams.Event{
		ID: name, Origin: name, EndpointID: id, Payload: []byte(`{}`), PublishedAt: time.Now(), NotBefore: at,
	}.LaneMsg())
	b.must(err)
}

// TestHalfLostLaneIsMended: a durable without its directory, as the server may
// keep one when a replica removes a lane while another makes it, fails every
// update. It is removed and made again.
func TestHalfLostLaneIsMended(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	id := endpoint("analytics", "quiz")
	_, err := b.js.CreateConsumer(b.ctx, streams.LaneStream, id.LaneConfig(time.Now().Add(time.Hour))) // so that it has to be updated
	b.must(err)
	lost := ""
	b.must(filepath.WalkDir(b.srv.DataDir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == id.LaneConsumer() {
			lost = path
		}
		return err
	}))
	if lost == "" {
		t.Fatal("the durable has no directory")
	}
	b.must(os.RemoveAll(lost))
	b.park(id, "left", time.Time{})
	j := &logtest.Buffer{}
	b.start("r1", told(j))
	b.eventually("the delivery", func() bool { return len(quiz.received()) == 1 })
	b.settled()
	if !strings.Contains(j.String(), "own lane: can't work") {
		t.Error("the durable could be updated: the test shows nothing")
	}
}

// TestLaneRemovedByAnotherReplica: that is how two of them share a lane, and
// nothing that an operator has to read of.
func TestLaneRemovedByAnotherReplica(t *testing.T) {
	t.Parallel()
	b := setup(t)
	quiz := newApp(b, always(200))
	b.apply("quiz", quiz.URL, quick, "analytics")
	id := endpoint("analytics", "quiz")
	b.park(id, "early", time.Now().Add(4*time.Second))
	j := &logtest.Buffer{}
	b.start("r1", told(j))
	for range 3 {
		b.eventually("a pull to wait at the lane", func() bool { info := b.lane(id); return info != nil && info.NumWaiting > 0 })
		b.must(b.js.DeleteConsumer(b.ctx, streams.LaneStream, id.LaneConsumer()))
	}
	b.eventually("the delivery", func() bool { return len(quiz.received()) == 1 })
	b.settled()
	if strings.Contains(j.String(), "own lane: can't work") {
		t.Errorf("it was told:\n%s", j.String())
	}
}
