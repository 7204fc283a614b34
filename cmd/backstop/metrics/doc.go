// Package metrics is what Prometheus sees of Backstop, beside the Go runtime.
// docs/metrics.md lists every metric, and a test holds the two together.
//
// What happens here is counted as it happens: see Metrics. What NATS knows is
// asked for in the background, so that a scrape never waits for it and many
// scrapes cost no more than one: see Broker. Endpoints and gates are followed
// by a watch each: see Metrics.Follow.
package metrics
