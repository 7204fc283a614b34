package rollup

import "unique"

// packed is Counts in a third of the memory: a day has many of them.
type packed struct {
	attempts, succeeded, retries, refused uint32
	durationUs                            uint64
	failed                                []failures
}

// failures are those of one reason.
type failures struct {
	reason unique.Handle[string]
	count  uint32
}

// pack returns the counts of a minute or an hour, in which there are no more
// than four billion of anything.
func pack(c Counts) packed {
	p := packed{
		attempts: uint32(c.Attempts), succeeded: uint32(c.Succeeded), //nolint:gosec // see above
		retries: uint32(c.Retries), refused: uint32(c.Refused), //nolint:gosec // see above
		durationUs: c.DurationUs,
	}
	if len(c.Failed) > 0 {
		p.failed = make([]failures, 0, len(c.Failed))
		for reason, n := range c.Failed {
			p.failed = append(p.failed, failures{unique.Make(reason), uint32(n)}) //nolint:gosec // see above
		}
	}
	return p
}

// addTo adds them to c.
func (p packed) addTo(c *Counts) {
	c.Attempts += uint64(p.attempts)
	c.Succeeded += uint64(p.succeeded)
	c.Retries += uint64(p.retries)
	c.Refused += uint64(p.refused)
	c.DurationUs += p.durationUs
	if len(p.failed) > 0 && c.Failed == nil {
		c.Failed = make(map[string]uint64, len(p.failed))
	}
	for _, f := range p.failed {
		c.Failed[f.reason.Value()] += uint64(f.count)
	}
}
