// Package streams is Backstop's contract in code: the subjects, headers,
// streams and buckets that services, apps and operators rely on, and the small
// Go client that publishes events and reads dead letters.
//
// A service that uses Go imports this package alone; its only third-party
// dependency is nats.go. A service in another language needs no more than a
// NATS client and the names below:
//
//	events.<capability>.<app>   JetStream publish   one event for one app
//	events.<capability>         JetStream publish   a copy for every app that declares it async
//	lanes.<capability>.<app>    Backstop only       the own queue of an endpoint in trouble
//	dlq.<capability>.<app>      Backstop only       a dead letter
//	attempts.<capability>.<app> Backstop only       the delivery log
//	results.<capability>.<app>  Backstop only       what an app answered later
//	notices.<kind>              Backstop only       what a person should know
//	calls.<capability>.<app>    NATS request        a call; somebody waits for the reply
package streams
