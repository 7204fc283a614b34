// Package fallback answers calls that the app doesn't. Its Stage stands around
// the chain that makes the request, for calls only:
//
//	fallback.Stage           the app's time; then the strategies, each with its share of the rest
//	  dispatcher.Measure     and all that is below it: see package dispatcher
//
//	dispatcher.Chain(deliver, fallback.Stage(fallback.Config{…}))
//
// The time of a call, from left to right:
//
//	|-- the app: what is told to it as X-Timeout-Ms --|-- reserve --|-- slack --|
//	                                                                            the caller's deadline
//
// The reserve is what the strategies of the endpoint's list need, and never
// more than 30% of the whole; when the app fails early, as with an open
// circuit, they have all that is left. Each strategy is a file:
//
//	default.go   the platform's own behaviour, by handler
//	  random_selection.go   a fair draw that can be repeated
//	  service.go            a platform service answers a NATS request
//	cached.go    the app's last answer for the same key; cache.go keeps them
//	queue.go     the call becomes an event
//	pending.go   a person decides
package fallback
