package secrets

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"backstop/streams/logtest"
)

func TestKeyringFollowsTheStore(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	first, second, third := Generate(), Generate(), Generate()
	b.must(func(ctx context.Context) error { return b.store.Set(ctx, "early", first) })
	k := b.keyring(b.key, &logtest.Buffer{})
	if !b.has(k, "early", first)() {
		t.Error("what was there before isn't there when it is ready")
	}
	if got := k.Active("nobody", time.Now()); len(got) != 0 {
		t.Error("an app without a secret has one")
	}
	b.must(func(ctx context.Context) error { return b.store.Set(ctx, "quiz", first) })
	b.eventually("set", b.has(k, "quiz", first))
	b.must(func(ctx context.Context) error { return b.store.Rotate(ctx, "quiz", second, time.Hour) })
	b.eventually("rotated", b.has(k, "quiz", second, first))
	b.must(func(ctx context.Context) error { return b.store.Rotate(ctx, "quiz", third, 0) })
	b.eventually("rotated without grace", b.has(k, "quiz", third))
	b.must(func(ctx context.Context) error { return b.store.Delete(ctx, "quiz") })
	b.eventually("deleted", b.has(k, "quiz"))
}

func TestActiveEndsWithTheGrace(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	first, second, third := Generate(), Generate(), Generate()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	b.store.now = func() time.Time { return now }
	for i, s := range []Secret{first, second, third} {
		b.must(func(ctx context.Context) error { return b.store.Rotate(ctx, "quiz", s, 24*time.Hour) })
		if i < 2 {
			now = now.Add(time.Hour)
		}
	}
	k := b.keyring(b.key, &logtest.Buffer{})
	for _, tt := range []struct {
		at     time.Duration // after the last rotation
		want   []Secret
		reason string
	}{
		{0, []Secret{third, second, first}, "all within their grace"},
		{23*time.Hour - 1, []Secret{third, second, first}, "the first was replaced an hour earlier"},
		{23 * time.Hour, []Secret{third, second}, "its grace is over"},
		{24*time.Hour - 1, []Secret{third, second}, "the second's is not"},
		{24 * time.Hour, []Secret{third}, "now it is"},
		{10000 * time.Hour, []Secret{third}, "the newest has no end"},
	} {
		var want []string
		for _, s := range tt.want {
			want = append(want, s.Reveal())
		}
		if got := k.Active("quiz", now.Add(tt.at)); !slices.Equal(got, want) {
			t.Errorf("after %v: %d secrets, want %d: %s", tt.at, len(got), len(want), tt.reason)
		}
	}
}

func TestActiveIsCheap(t *testing.T) {
	k := NewKeyring(testKey(t, 1), nil, nil)
	now := time.Now()
	k.apps.Store("quiz", &ring{texts: []string{"new", "old", "older"}, expires: []time.Time{{}, now.Add(time.Hour), now.Add(-time.Hour)}})
	app := strings.Clone("quiz")
	if n := testing.AllocsPerRun(1000, func() {
		if len(k.Active(app, now)) != 2 {
			t.Fatal("wrong number of secrets")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	got := k.Active(app, now)
	_ = append(got, "mine")
	if k.Active(app, now.Add(-2*time.Hour))[2] != "older" {
		t.Error("appending to what Active returns changes the keyring")
	}
}

func TestKeyringKeepsTheLastGood(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	good, other := Generate(), Generate()
	b.must(func(ctx context.Context) error { return b.store.Set(ctx, "quiz", good) })
	var l logtest.Buffer
	k := b.keyring(b.key, &l)

	put := func(app string, value []byte) {
		t.Helper()
		if _, err := b.kv.Put(t.Context(), app, value); err != nil {
			t.Fatal(err)
		}
	}
	// After each bad value a change of another app shows that it was read.
	marker := func() {
		t.Helper()
		s := Generate()
		b.must(func(ctx context.Context) error { return b.store.Set(ctx, "marker", s) })
		b.eventually("marker", b.has(k, "marker", s))
	}
	seal := func(key *Key, app string, s Secret) []byte {
		t.Helper()
		sealed, err := key.Public().seal(app, s)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	record := func(sealed ...[]byte) []byte {
		var r record
		for _, s := range sealed {
			r = append(r, newEntry(s, time.Now()))
		}
		value, _ := r.json()
		return value
	}
	mine := seal(b.key, "quiz", other)
	damaged := slices.Clone(mine)
	damaged[len(damaged)-1] ^= 1
	for name, value := range map[string][]byte{
		"not JSON":          []byte("garbage"),
		"sealed for others": record(seal(testKey(t, 2), "quiz", other)),
		"of another app":    record(seal(b.key, "lottery", other)),
		"damaged":           record(damaged),
		"cut":               record(mine[:10]),
		"not a secret":      record(seal(b.key, "quiz", Secret{text: new(string)})),
	} {
		put("quiz", value)
		marker()
		if !b.has(k, "quiz", good)() {
			t.Errorf("%s: the last good secret is gone", name)
		}
	}
	for _, want := range []string{"can't be opened with this key file", "last good ones stay", "app=quiz"} {
		if !strings.Contains(l.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, l.String())
		}
	}
	put("quiz", record(damaged, mine))
	b.eventually("what can be opened of a value is used", b.has(k, "quiz", other))

	put("odd.name", []byte("[]"))
	marker()
	if !strings.Contains(l.String(), "odd.name") {
		t.Error("a key that isn't an app is not logged")
	}
	for _, s := range []Secret{good, other} {
		if strings.Contains(l.String(), s.Reveal()[6:]) {
			t.Error("a secret is in the log")
		}
	}
}

func TestKeyringSurvivesRestartOfTheServer(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	first, second := Generate(), Generate()
	b.must(func(ctx context.Context) error { return b.store.Set(ctx, "quiz", first) })
	k := b.keyring(b.key, &logtest.Buffer{})
	b.nats.Stop()
	if !b.has(k, "quiz", first)() {
		t.Error("without a server the secrets are gone")
	}
	b.nats.Restart()
	b.must(func(ctx context.Context) error { return b.store.Set(ctx, "quiz", second) })
	b.eventually("the change after the restart", b.has(k, "quiz", second))
}

func TestKeyringNoticesAnotherPublicKey(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	var l logtest.Buffer
	b.keyring(b.key, &l)
	if err := b.kv.Delete(t.Context(), PublicKeyName); err != nil {
		t.Fatal(err)
	}
	b.eventually("the removal is logged", func() bool { return strings.Contains(l.String(), "was removed") })
	if err := Publish(t.Context(), b.kv, testKey(t, 2)); err != nil {
		t.Fatal(err)
	}
	b.eventually("the other key is logged", func() bool {
		return strings.Contains(l.String(), "copy secrets.key") && strings.Contains(l.String(), testKey(t, 2).Public().Fingerprint())
	})
}
