package secrets

import (
	"errors"
	"strings"
	"sync"
	"testing"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	before, err := b.kv.Get(t.Context(), PublicKeyName)
	if err != nil {
		t.Fatal(err)
	}
	if err := Publish(t.Context(), b.kv, b.key); err != nil {
		t.Errorf("the same key again: %v", err)
	}
	err = Publish(t.Context(), b.kv, testKey(t, 2))
	if !errors.Is(err, ErrOtherKey) || !strings.Contains(err.Error(), "copy secrets.key") {
		t.Errorf("another key: %v, want ErrOtherKey with what to do", err)
	}
	after, err := b.kv.Get(t.Context(), PublicKeyName)
	if err != nil || after.Revision() != before.Revision() {
		t.Errorf("the published key was written again: revision %d → %d, %v", before.Revision(), after.Revision(), err)
	}
	for _, value := range []string{"x", `{"suite":"ROT13","public":""}`, `{"suite":"` + suite + `","public":"AAAA"}`} {
		if _, err := b.kv.PutString(t.Context(), PublicKeyName, value); err != nil {
			t.Fatal(err)
		}
		if err := Publish(t.Context(), b.kv, b.key); err == nil || !strings.Contains(err.Error(), "nats kv del secrets public.key") {
			t.Errorf("%s is there: %v, want what to do", value, err)
		}
		if err := b.store.Set(t.Context(), "quiz", Generate()); err == nil {
			t.Errorf("sealed with %s", value)
		}
	}
}

func TestKeysThatArePublishedAtOnce(t *testing.T) {
	t.Parallel()
	b := newFixture(t)
	if err := b.kv.Delete(t.Context(), PublicKeyName); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() { errs[i] = Publish(t.Context(), b.kv, testKey(t, byte(i))) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, ErrOtherKey):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d keys were published, want 1", won)
	}
}
