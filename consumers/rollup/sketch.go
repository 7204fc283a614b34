package rollup

import (
	"fmt"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/mapping"
	"github.com/DataDog/sketches-go/ddsketch/store"
)

// Accuracy is how far a percentile may be from the true one, relative to it.
const Accuracy = 0.01

// shared is how durations are put into bins. Sketches that are stored leave it
// out, so that it can't be changed without new names for the stored keys.
var shared = func() mapping.IndexMapping {
	m, err := mapping.NewLogarithmicMapping(Accuracy)
	if err != nil {
		panic(err) // only of an accuracy outside 0…1
	}
	return m
}()

// sketch keeps durations in milliseconds. Make one with newSketch.
type sketch struct{ *ddsketch.DDSketch }

func newSketch() sketch {
	return sketch{ddsketch.NewDDSketchFromStoreProvider(shared, store.BufferedPaginatedStoreConstructor)}
}

// add takes a duration, as DecodeEntry returns it.
func (s sketch) add(ms float64) {
	if err := s.Add(ms); err != nil {
		panic(fmt.Sprintf("rollup: a sketch refuses %v: %v", ms, err)) // it refuses only NaN and what is far larger
	}
}

// bytes returns what merge takes.
func (s sketch) bytes() []byte {
	var b []byte
	s.Encode(&b, true)
	return b
}

// merge adds a sketch's bytes.
func (s sketch) merge(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	return s.DecodeAndMergeWith(b)
}

// percentiles returns the values below which the given shares lie; zeros when
// there are none.
func (s sketch) percentiles(shares ...float64) []float64 {
	values, err := s.GetValuesAtQuantiles(shares)
	if err != nil || s.IsEmpty() {
		return make([]float64, len(shares))
	}
	return values
}
