package fallback

import (
	"context"
	"errors"
	"fmt"
	"time"

	"backstop/streams"
	"backstop/streams/manifest"
)

// defaultTTL is how old a cached answer may be when the manifest doesn't say.
const defaultTTL = 5 * time.Minute

func ttl(s manifest.Strategy) time.Duration {
	if s.TTL <= 0 {
		return defaultTTL
	}
	return time.Duration(s.TTL) * time.Millisecond
}

var errNothingCached = errors.New("nothing is cached for the key")

// cached answers what the app answered last for the same key, unless that is
// older than the manifest's ttl.
func cached(c *Cache) strategy {
	return func(ctx context.Context, r request) (answer, error) {
		if c == nil {
			return answer{}, errors.New("there is no cache")
		}
		e, err := c.lookup(ctx, r)
		if err != nil {
			c.count.misses.Add(1)
			return answer{}, err
		}
		c.count.hits.Add(1)
		return answer{source: streams.SourceCache, data: e.Data, age: e.age}, nil
	}
}

func (c *Cache) lookup(ctx context.Context, r request) (entry, error) {
	key, err := cacheKey(r.call.Endpoint.EndpointID, r.how.Key, r.call.Event.Payload)
	if err != nil {
		return entry{}, err
	}
	e, err := c.get(ctx, key)
	if err != nil {
		return entry{}, err
	}
	if limit := ttl(r.how); e.age > limit {
		return entry{}, fmt.Errorf("%w: the last answer is older than %v", errNothingCached, limit)
	}
	return e, nil
}
