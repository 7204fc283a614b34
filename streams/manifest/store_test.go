package manifest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"backstop/embedded/natstest"
	"backstop/streams/logtest"
)

func newStore(t *testing.T, n *natstest.Server, log *slog.Logger) (*Store, jetstream.KeyValue) {
	t.Helper()
	js := n.JetStream()
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "apps", History: 5})
	if err != nil {
		t.Fatal(err)
	}
	return NewStore(kv, log), kv
}

func app(t *testing.T, id, path string) Manifest {
	t.Helper()
	return parse(t, `{"appId":"`+id+`","baseUrl":"https://a.example","webhooks":{"analytics":{"path":"`+path+`"}}}`)
}

func mustPut(t *testing.T, s *Store, m Manifest) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for { // while a server restarts, it may take several
		rev, _, err := s.Put(ctx, m, nil)
		if err == nil {
			return rev
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func TestStorePutGetDelete(t *testing.T) {
	t.Parallel()
	s, kv := newStore(t, natstest.Start(t), nil)
	if _, _, err := s.Get(t.Context(), "quiz"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of nothing: %v", err)
	}
	rev, created, err := s.Put(t.Context(), app(t, "quiz", "/1"), nil)
	if err != nil || !created || rev != 1 {
		t.Errorf("first Put: %d, %v, %v", rev, created, err)
	}
	rev, created, err = s.Put(t.Context(), app(t, "quiz", "/1"), nil)
	if err != nil || created || rev != 1 {
		t.Errorf("the same again: %d, %v, %v; want nothing written", rev, created, err)
	}
	rev, created, err = s.Put(t.Context(), app(t, "quiz", "/2"), nil)
	if err != nil || created || rev != 2 {
		t.Errorf("another: %d, %v, %v", rev, created, err)
	}
	m, rev, err := s.Get(t.Context(), "quiz")
	if err != nil || rev != 2 || m.Webhooks["analytics"].Path != "/2" {
		t.Errorf("Get: %+v, %d, %v", m, rev, err)
	}
	entry, err := kv.Get(t.Context(), "quiz")
	if err != nil || !strings.HasPrefix(string(entry.Value()), `{"appId":"quiz",`) || strings.Contains(string(entry.Value()), "\n") {
		t.Errorf("stored as %s, %v; want it on one line", entry.Value(), err)
	}
	if err := s.Delete(t.Context(), "quiz"); err != nil {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "quiz"); !errors.Is(err, ErrNotFound) {
		t.Errorf("second Delete: %v", err)
	}
	if _, created, err := s.Put(t.Context(), app(t, "quiz", "/2"), nil); err != nil || !created {
		t.Errorf("Put after Delete: created %v, %v", created, err)
	}
}

func TestStoreComparesRevisions(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t, natstest.Start(t), nil)
	at := func(rev uint64) *uint64 { return &rev }
	if _, _, err := s.Put(t.Context(), app(t, "quiz", "/1"), at(3)); !errors.Is(err, ErrConflict) {
		t.Errorf("a revision of an app that isn't there: %v", err)
	}
	rev, created, err := s.Put(t.Context(), app(t, "quiz", "/1"), at(0))
	if err != nil || !created {
		t.Fatalf("expected none: created %v, %v", created, err)
	}
	if _, _, err := s.Put(t.Context(), app(t, "quiz", "/2"), at(0)); !errors.Is(err, ErrConflict) {
		t.Errorf("expected none, there is one: %v", err)
	}
	if _, created, err := s.Put(t.Context(), app(t, "quiz", "/2"), at(rev)); err != nil || created {
		t.Errorf("the right revision: created %v, %v", created, err)
	}
	if _, _, err := s.Put(t.Context(), app(t, "quiz", "/3"), at(rev)); !errors.Is(err, ErrConflict) {
		t.Errorf("an old revision: %v", err)
	}
}

func TestStoreRefusesWhatParseWould(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t, natstest.Start(t), nil)
	m := app(t, "quiz", "/1")
	m.Webhooks["analytics"] = Webhook{Path: "no slash"}
	if _, _, err := s.Put(t.Context(), m, nil); !errors.As(err, new(Problems)) {
		t.Errorf("error %v, want Problems", err)
	}
	if _, _, err := s.Get(t.Context(), "a.b"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a name that can't be: %v", err)
	}
}

func TestStoreListShowsWhatItCantRead(t *testing.T) {
	t.Parallel()
	s, kv := newStore(t, natstest.Start(t), nil)
	mustPut(t, s, app(t, "b", "/1"))
	mustPut(t, s, app(t, "a", "/1"))
	if _, err := kv.PutString(t.Context(), "aa", `{"appId":"aa"`); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, fmt.Sprintf("%s %v", e.App, e.Err == nil))
	}
	if want := "a true, aa false, b true"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if err := s.Delete(t.Context(), "aa"); err != nil {
		t.Errorf("what can't be read can't be removed: %v", err)
	}
}

// follow runs Watch until the test ends, and returns what it tells, in words.
func follow(t *testing.T, s *Store) func() string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	updates, done := make(chan string, 100), make(chan error, 1)
	go func() {
		done <- s.Watch(ctx, func(u Update) {
			switch {
			case u.Loaded:
				updates <- "loaded"
			case u.Manifest == nil:
				updates <- "-" + u.App
			default:
				updates <- u.App + u.Manifest.Webhooks["analytics"].Path
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return func() string {
		t.Helper()
		select {
		case u := <-updates:
			return u
		case <-time.After(20 * time.Second):
			t.Fatal("nothing is told")
			return ""
		}
	}
}

func TestStoreWatch(t *testing.T) {
	t.Parallel()
	var log logtest.Buffer
	n := natstest.Start(t)
	s, kv := newStore(t, n, slog.New(slog.NewTextHandler(&log, nil)))
	mustPut(t, s, app(t, "a", "/1"))
	// An address that the operator no longer allows is for the dialler.
	if _, err := kv.PutString(t.Context(), "b", `{"appId":"b","baseUrl":"http://10.0.0.1","webhooks":{"analytics":{"path":"/1"}}}`); err != nil {
		t.Fatal(err)
	}
	next := follow(t, s)
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := next(); got != w {
				t.Fatalf("told %s, want %s", got, w)
			}
		}
	}
	expect("a/1", "b/1", "loaded")

	began := time.Now()
	mustPut(t, s, app(t, "a", "/2"))
	expect("a/2")
	if d := time.Since(began); d > time.Second {
		t.Errorf("told after %v, want within a second", d)
	}

	// Bad values, and values in the wrong place, are logged; the rest goes on.
	for key, value := range map[string]string{
		"a": `{"appId":"a","baseUrl":"https://a.example","webhooks":{"analytics":{"path":"oops"}}}`,
		"c": `{"appId":"a","baseUrl":"https://a.example","webhooks":{"analytics":{"path":"/3"}}}`,
	} {
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	mustPut(t, s, app(t, "d", "/1"))
	expect("d/1")
	for _, part := range []string{"/webhooks/analytics/path", `stored as`, "the last good one stays"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log lacks %q:\n%s", part, log.String())
		}
	}

	n.Restart()
	mustPut(t, s, app(t, "d", "/2"))
	expect("d/2")
	if err := s.Delete(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	expect("-d")
}
