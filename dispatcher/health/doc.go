// Package health checks an app's health: one request, what its answer says,
// and what becomes of the app's state by it.
//
//	Check    GET the health URL → healthy, degraded, unhealthy, or nothing learnt
//	Metrics  GET the metrics URL → present, missing
//	Next     the state before + what a check said → the state after
//
// When to check, and where the state is kept, is somebody else's business.
package health
