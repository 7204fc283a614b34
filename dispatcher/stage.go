package dispatcher

import (
	"context"
	"slices"
)

// Handler makes one attempt and says what came of it.
type Handler func(ctx context.Context, c Call) Outcome

// Stage wraps a Handler with one concern.
type Stage func(next Handler) Handler

// Chain wraps h in stages, the first outermost: Chain(h, a, b) is a(b(h)).
func Chain(h Handler, stages ...Stage) Handler {
	for _, stage := range slices.Backward(stages) {
		h = stage(h)
	}
	return h
}
