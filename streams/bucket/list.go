package bucket

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// List returns the current entry of every key, sorted by key; with filters
// only of keys that match one, in which a token may be "*". A listing that
// breaks off is an error and never a shorter list.
func List(ctx context.Context, kv jetstream.KeyValue, filters ...string) ([]jetstream.KeyValueEntry, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := follower{kv: kv, filters: filters}
	w, err := f.open(ctx, cancel)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("list bucket %s: %w", kv.Bucket(), err)
	}
	defer func() {
		cancel()
		drain(w)
	}()
	// A key that is written while the list is read comes twice.
	found := make(map[string]jetstream.KeyValueEntry)
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("list bucket %s: %w", kv.Bucket(), ctx.Err())
		case entry, ok := <-w.Updates():
			switch {
			case !ok:
				return nil, fmt.Errorf("list bucket %s: the connection to NATS was lost; try again", kv.Bucket())
			case entry == nil:
				return sorted(found), nil
			case entry.Operation() == jetstream.KeyValuePut:
				found[entry.Key()] = entry
			default:
				delete(found, entry.Key())
			}
		}
	}
}

func sorted(found map[string]jetstream.KeyValueEntry) []jetstream.KeyValueEntry {
	entries := make([]jetstream.KeyValueEntry, 0, len(found))
	for _, e := range found {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b jetstream.KeyValueEntry) int { return cmp.Compare(a.Key(), b.Key()) })
	return entries
}
