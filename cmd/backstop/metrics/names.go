package metrics

import (
	"maps"
	"slices"
	"sync"

	"backstop/streams"
)

// Other is what the label "app" says of endpoints that have no series of their
// own. No app can have this name.
const Other = "_other"

// names decides which endpoints have series of their own: the first ones to
// have any, up to a limit. What is counted of the others is in one series of
// their capability, so that sums are right whatever the limit is.
type names struct {
	most int

	mu  sync.RWMutex
	own map[streams.EndpointID]struct{}
}

func newNames(most int) *names {
	return &names{most: most, own: make(map[streams.EndpointID]struct{})}
}

// labels returns what the labels "capability" and "app" say of the endpoint. A
// name that no manifest could have is empty: whatever a publisher or a caller
// came up with must make no series, and a label that is not UTF-8 panics.
func (n *names) labels(id streams.EndpointID) (capability, app string) {
	if !streams.ValidName(id.Capability) {
		return "", ""
	}
	return id.Capability, n.app(id)
}

// app returns what the label "app" says of the endpoint, and keeps a place for
// it if there is one.
func (n *names) app(id streams.EndpointID) string {
	if !streams.ValidName(id.App) {
		return ""
	}
	n.mu.RLock()
	_, own := n.own[id]
	full := len(n.own) >= n.most
	n.mu.RUnlock()
	if !own && full {
		return Other
	}
	if !own {
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.own) >= n.most {
			return Other
		}
		n.own[id] = struct{}{}
	}
	return id.App
}

// has tells whether the endpoint has series of its own.
func (n *names) has(id streams.EndpointID) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	_, own := n.own[id]
	return own
}

// release gives the endpoint's place to another.
func (n *names) release(id streams.EndpointID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.own, id)
}

// list returns the endpoints that have series of their own, in no order.
func (n *names) list() []streams.EndpointID {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return slices.Collect(maps.Keys(n.own))
}
