package streams

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestPatience: a server that takes long for everything is given the time; one
// that answers nothing is given up some time.
func TestPatience(t *testing.T) {
	for _, test := range []struct {
		why   string
		takes time.Duration
		want  error
		most  time.Duration
	}{
		{"a fast answer", time.Millisecond, nil, time.Millisecond},
		{"a slow disk", 5 * time.Second, nil, 20 * time.Second},
		{"nobody there", time.Hour, context.DeadlineExceeded, partFor},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			err := patiently(t.Context(), func(ctx context.Context) error {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(test.takes):
					return nil
				}
			})
			if took := time.Since(began); !errors.Is(err, test.want) || took > test.most {
				t.Errorf("%s: %v after %v, want %v after %v at most", test.why, err, took, test.want, test.most)
			}
		})
	}
}
