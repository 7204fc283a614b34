package dispatcher

import (
	"flag"
	"io"
	"log"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"backstop/streams"
	"backstop/streams/manifest"
)

func TestMain(m *testing.M) {
	// net/http logs what hostile apps send unasked, and takes no other logger.
	log.SetOutput(io.Discard)
	// Those that are marked as parallel wait nearly all of their time.
	// -parallel is obeyed if it asks for something else than its default.
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

var (
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	testID   = streams.EndpointID{Capability: "analytics", App: "quiz"}
)

// newPoster returns a poster that reaches this machine, and closes it when the
// test is over.
func newPoster(t testing.TB, cfg PosterConfig) *Poster {
	t.Helper()
	cfg.AllowedNetworks = append(cfg.AllowedNetworks, loopback...)
	p := NewPoster(cfg)
	t.Cleanup(p.Close)
	return p
}

// callTo returns an event for the URL.
func callTo(url string) Call {
	return Call{
		Event: streams.Event{
			EndpointID: testID, ID: "evt_1", Origin: "1-1", Payload: []byte(`{"quizId":"q1"}`),
		},
		Endpoint: manifest.Endpoint{
			EndpointID: testID, URL: url, Async: true, Timeout: 5 * time.Second, Concurrency: 10,
			Breaker: manifest.BreakerPolicy{FailureThreshold: 5, RecoveryTimeout: time.Minute, SuccessThreshold: 3},
		},
		Attempt: 1,
	}
}

// verdict is what an outcome comes down to.
type verdict struct {
	Verdict   Verdict
	Effect    Effect
	Reason    Reason
	Requested bool
	Status    int
}

func (o Outcome) verdict() verdict {
	return verdict{o.Verdict, o.Effect, o.Reason, o.Requested, o.Status}
}

func expectVerdict(t *testing.T, out Outcome, want verdict) {
	t.Helper()
	if got := out.verdict(); got != want {
		t.Errorf("outcome %+v (%v), want %+v", got, out.Err, want)
	}
	if (out.Err == nil) != (out.Verdict == Delivered) || (out.Reason == "") != (out.Verdict == Delivered) {
		t.Errorf("verdict %v with reason %q and error %v", out.Verdict, out.Reason, out.Err)
	}
}
