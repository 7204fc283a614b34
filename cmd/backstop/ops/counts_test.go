package ops

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestReasonsAreCountedOnceForAllWhoAskTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c reasonCounts
		counted := 0
		ask := func(total uint64, want int, why string) {
			t.Helper()
			reasons, err := c.of(total, func() ([]ReasonCount, error) {
				counted++
				return []ReasonCount{{Reason: "exhausted", Count: int(total)}}, nil
			})
			if err != nil || len(reasons) != 1 || counted != want {
				t.Errorf("%s: counted %d times, want %d (%v, %v)", why, counted, want, reasons, err)
			}
		}
		ask(5, 1, "nothing is known yet")
		ask(5, 1, "just counted")
		ask(6, 1, "one more has come")
		ask(4, 2, "somebody has decided about some")
		pass(reasonsKept)
		ask(4, 3, "a while ago")
		pass(reasonsKept)
		failed := errors.New("no answer")
		if _, err := c.of(4, func() ([]ReasonCount, error) { return nil, failed }); !errors.Is(err, failed) {
			t.Errorf("error %v, want what counting failed with", err)
		}
		ask(4, 4, "counting has failed")
	})
}

// pass lets time go by in a bubble, where it is none.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // see above
