package fallback

import (
	"context"
	"errors"

	"backstop/streams"
	"backstop/streams/manifest"
)

// handlers returns the handlers of the default strategy by their names in a
// manifest.
func handlers(cfg Config) map[string]strategy {
	return map[string]strategy{
		manifest.HandlerRandomSelection: randomSelection,
		manifest.HandlerReject:          says(`{"accepted":false}`),
		manifest.HandlerAccept:          says(`{"accepted":true}`),
		manifest.HandlerStatic:          static,
		manifest.HandlerService:         service(cfg.NATS),
	}
}

// byHandler is the platform's own behaviour.
func byHandler(handlers map[string]strategy) strategy {
	return func(ctx context.Context, r request) (answer, error) {
		handler, ok := handlers[r.how.Handler]
		if !ok {
			return answer{}, errors.New("there is no such handler")
		}
		a, err := handler(ctx, r)
		a.source = streams.SourceDefault
		return a, err
	}
}

// says answers the same always.
func says(data string) strategy {
	return func(context.Context, request) (answer, error) { return answer{data: []byte(data)}, nil }
}

// static answers the value that stands in the manifest.
func static(_ context.Context, r request) (answer, error) { return answer{data: r.how.Value}, nil }
