package admin

import (
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Failed logins: a client may have so many at once, and then one in each
// failureEvery. While it is over that, its tokens are not even looked at.
const (
	failureBurst = 10
	failureEvery = 5 * time.Second
	// maxClients bounds the memory; beyond it, those that have been quiet long
	// enough to have their burst back are forgotten, and then anyone.
	maxClients = 4096
)

// throttle counts failed logins by client.
type throttle struct {
	now     func() time.Time
	mu      sync.Mutex
	clients map[netip.Addr]*rate.Limiter
}

func newThrottle() *throttle {
	return &throttle{now: time.Now, clients: make(map[netip.Addr]*rate.Limiter)}
}

// blocked returns how long a client has to wait; 0 means that it needn't.
func (t *throttle) blocked(client netip.Addr) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	limiter := t.clients[client]
	if limiter == nil {
		return 0
	}
	tokens := limiter.TokensAt(t.now())
	if tokens >= 1 {
		return 0
	}
	return time.Duration((1 - tokens) * float64(failureEvery))
}

// add counts a failure.
func (t *throttle) add(client netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	limiter := t.clients[client]
	if limiter == nil {
		t.makeRoom()
		limiter = rate.NewLimiter(rate.Every(failureEvery), failureBurst)
		t.clients[client] = limiter
	}
	limiter.AllowN(t.now(), 1)
}

func (t *throttle) makeRoom() {
	if len(t.clients) < maxClients {
		return
	}
	now := t.now()
	for client, limiter := range t.clients {
		if limiter.TokensAt(now) >= failureBurst {
			delete(t.clients, client)
		}
	}
	for client := range t.clients {
		if len(t.clients) < maxClients {
			return
		}
		delete(t.clients, client)
	}
}

func tooManyFailures(wait time.Duration) *Problem {
	seconds := int(wait/time.Second) + 1
	return problem(http.StatusTooManyRequests, codeTooMany, "too many wrong tokens from this address; wait").with("Retry-After", strconv.Itoa(seconds))
}
