package consumers

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// agenda says which app's turn comes when. An app has one turn at a time, and
// however many apps there are, one goroutine waits for the next of them.
type agenda struct {
	changed chan struct{} // one token when another turn may have become the first

	mu    sync.Mutex
	turns turnHeap
	byApp map[string]*turn
}

// turn is the next turn of an app, or the one that is being taken.
type turn struct {
	app   string
	at    time.Time
	index int // in the heap; -1 while it is being taken
	// again is when the next turn should come at the latest, as was asked for
	// while this one is being taken. Zero: nobody asked.
	again time.Time
}

func newAgenda() *agenda {
	return &agenda{changed: make(chan struct{}, 1), byApp: make(map[string]*turn)}
}

// sooner gives the app a turn at the given time, unless it has an earlier one.
func (a *agenda) sooner(app string, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.byApp[app]
	switch {
	case t == nil:
		a.add(app, at)
	case t.index < 0:
		if t.again.IsZero() || at.Before(t.again) {
			t.again = at
		}
	case at.Before(t.at):
		t.at = at
		heap.Fix(&a.turns, t.index)
		a.wake()
	}
}

// add adds a turn of an app that has none. The lock is held.
func (a *agenda) add(app string, at time.Time) {
	t := &turn{app: app, at: at}
	a.byApp[app] = t
	heap.Push(&a.turns, t)
	a.wake()
}

func (a *agenda) wake() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// run calls take for each app in its turn, at most so many at once, and gives
// the app its next turn when take says, none for a zero time. It returns when
// ctx has ended and every take has returned.
func (a *agenda) run(ctx context.Context, most int, take func(ctx context.Context, app string) (next time.Time)) {
	var taking sync.WaitGroup
	defer taking.Wait()
	slots := make(chan struct{}, most)
	for {
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		app, ok := a.next(ctx)
		if !ok {
			return
		}
		taking.Go(func() {
			defer func() { <-slots }()
			a.over(app, take(ctx, app))
		})
	}
}

// next waits for the first turn and takes it off the agenda; false means that
// ctx has ended.
func (a *agenda) next(ctx context.Context) (string, bool) {
	for {
		app, wait := a.due(time.Now())
		if app != "" {
			return app, ctx.Err() == nil
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return "", false
		case <-a.changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// due returns the app whose turn it is, or how long the first has to wait.
func (a *agenda) due(now time.Time) (app string, wait time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.turns) == 0 {
		return "", time.Hour
	}
	first := a.turns[0]
	if wait := first.at.Sub(now); wait > 0 {
		return "", wait
	}
	heap.Pop(&a.turns)
	return first.app, 0
}

// over ends the turn that the app is taking.
func (a *agenda) over(app string, next time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	again := a.byApp[app].again
	delete(a.byApp, app)
	if next.IsZero() || !again.IsZero() && again.Before(next) {
		next = again
	}
	if !next.IsZero() {
		a.add(app, next)
	}
}

// turnHeap is a heap.Interface with the earliest turn first.
type turnHeap []*turn

func (h turnHeap) Len() int           { return len(h) }
func (h turnHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h turnHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push adds a *turn.
func (h *turnHeap) Push(x any) {
	t, _ := x.(*turn) // always: add is the only caller
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop removes the last.
func (h *turnHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}
