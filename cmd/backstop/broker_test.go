package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What goes by itself is waited for; what doesn't ends the start.
func TestUnreachable(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"no answer":                        {context.DeadlineExceeded, true},
		"nobody there":                     {nats.ErrNoResponders, true},
		"a cluster that elects its leader": {&jetstream.APIError{Code: 503, ErrorCode: 10008}, true},
		"a disk that is full":              {&jetstream.APIError{Code: 503, ErrorCode: 10047}, false},
		"a stream that is another already": {&jetstream.APIError{Code: 400, ErrorCode: 10058}, false},
		"anything else":                    {errors.New("no"), false},
	} {
		if got := unreachable(fmt.Errorf("stream LANES: %w", test.err)); got != test.want {
			t.Errorf("%s: waited for is %t, want %t", name, got, test.want)
		}
	}
}
