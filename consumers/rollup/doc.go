// Package rollup adds up the delivery log: what came of the attempts at each
// endpoint, minute by minute, and how long they took.
//
//	Fold    entries of the log, in their order → the parts of each minute
//	Part    what is stored of a minute, with the last entry that is in it
//	Window  the parts of a day → Overview, Stats and Series
//
// An entry counts in the minute in which the log stored it, which is a fraction
// of a second after its attempt ended. That makes the sums a function of the
// log alone: whoever folds it, and however often they start again from what is
// stored, gets the same numbers. Durations are kept in sketches (DDSketch),
// which merge without loss; a percentile is within 1% of the true one.
//
// The package knows nothing of NATS.
package rollup
