// Package embedded runs a NATS server with JetStream inside the process, set up
// for events that must not be lost.
//
// It exists because nats-server's own defaults suit a program of its own and
// not a guest: it would listen on every interface, keep its store in the
// temporary directory, lose two minutes of acknowledged messages with the
// power, size its store by a disk that it doesn't own, and answer a signal by
// ending the process. Start decides each of these, and checks first whatever
// can be checked, so that a wrong setting is one line and not a log to read:
//
//	settings → data directory → lock → write probe → port → store cap → every block → JetStream
//
// While the server runs, tend refuses publishes when the disk is nearly full,
// and starts another nats-server in its place after a write that failed.
//
// The package imports nothing else of Backstop, so that every test may use it;
// see natstest.
package embedded
