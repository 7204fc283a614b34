//go:build e2e

package ledger

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"backstop/streams/killpoint"
)

// worldKind is what a run happens in.
type worldKind string

const (
	embeddedWorld  worldKind = "embedded"  // one serve with its own NATS
	singleWorld    worldKind = "single"    // two replicas, one nats-server
	clusterWorld   worldKind = "cluster"   // two replicas, three nats-servers
	powerWorld     worldKind = "power"     // embedded, on a disk that loses its power
	diskWorld      worldKind = "disk"      // embedded, on a disk that somebody fills
	partitionWorld worldKind = "partition" // two replicas, one in a network of its own
	namesWorld     worldKind = "names"     // two replicas, one nats-server, a name server of the rig's own
	splitWorld     worldKind = "split"     // two replicas, three nats-servers in networks of their own
	blackoutWorld  worldKind = "blackout"  // two replicas, three nats-servers on disks that lose their power
)

// embeds tells whether a serve is its own NATS server there.
func (k worldKind) embeds() bool {
	return k == embeddedWorld || k == powerWorld || k == diskWorld
}

// blow is one thing that is done to a run.
type blow struct {
	at   time.Duration // after the traffic begins
	what string
	who  int           // which replica, or server
	arm  string        // the kill point of the replica's next start
	long time.Duration // how long it lasts
	turn time.Duration // what a dial is turned to
}

func (b blow) String() string {
	text := fmt.Sprintf("%v %s %d", b.at.Round(time.Millisecond), b.what, b.who)
	if b.arm != "" {
		text += " then " + b.arm
	}
	if b.what == "clock" || b.what == "slow disk" {
		text += fmt.Sprintf(" to %v", b.turn)
	}
	return text
}

// plan is what a seed stands for.
type plan struct {
	world    worldKind
	replicas int
	arms     []string // kill points of the first starts
	blows    []blow
	commands []string      // kill points of the commands: apply, replay, discard
	gap      time.Duration // between the events of one publisher, about; 0: trafficGap
}

func (p plan) pace() time.Duration { return cmp.Or(p.gap, trafficGap) }

func (p plan) String() string {
	var blows []string
	for _, b := range p.blows {
		blows = append(blows, b.String())
	}
	return fmt.Sprintf("%s; first starts %q; commands %q; %s", p.world, p.arms, p.commands, strings.Join(blows, ", "))
}

// byCommands are the points that commands come past, and not serve.
func byCommands(p killpoint.Point) bool {
	return p == killpoint.SecretStored || p == killpoint.ManifestStored || p == killpoint.DeadLetterDecided
}

func servePoints() []killpoint.Point {
	var points []killpoint.Point
	for _, p := range killpoint.Points() {
		if !byCommands(p) {
			points = append(points, p)
		}
	}
	return points
}

// The weights of worlds, in a hundred.
var worlds = []struct {
	kind   worldKind
	weight int
}{{embeddedWorld, 28}, {singleWorld, 18}, {clusterWorld, 14}, {powerWorld, 10}, {diskWorld, 6}, {partitionWorld, 8}, {namesWorld, 7}, {splitWorld, 9}}

// blowsOf are what may be done in each world.
func blowsOf(kind worldKind) []string {
	blows := []string{"kill", "kill", "stop", "terminate"}
	switch kind {
	case singleWorld:
		return append(blows, "kill nats", "kill nats")
	case clusterWorld:
		return append(blows, "kill node", "kill leader", "kill all nodes")
	case blackoutWorld:
		return append(blows, "power of a node", "power of the leader", "power of all nodes", "power of all nodes", "power of all nodes")
	case powerWorld:
		return append(blows, "power", "power", "power", "power")
	case diskWorld:
		return []string{"kill", "fill"}
	case partitionWorld:
		return append(blows, "part", "part", "part", "kill nats")
	case namesWorld:
		return append(blows, "kill nats")
	case splitWorld:
		return append(blows, "split node", "split leader", "split leader", "split meta leader", "kill leader")
	default:
		return blows
	}
}

// draw makes the plan of a seed.
func draw(seed uint64) plan {
	random := rand.New(rand.NewPCG(seed, 7))
	n, p := random.IntN(100), plan{}
	for _, w := range worlds {
		if p.world = w.kind; n < w.weight {
			break
		}
		n -= w.weight
	}
	// It came later, and leaves all other seeds their plans.
	if p.world == clusterWorld && rand.New(rand.NewPCG(seed, 11)).IntN(3) == 0 {
		p.world = blackoutWorld
	}
	p.replicas = 1
	if !p.world.embeds() {
		p.replicas = 2
	}
	points := servePoints()
	arm := func() string { return fmt.Sprintf("%s:%d", points[random.IntN(len(points))], 1+random.IntN(12)) }
	for range p.replicas {
		first := ""
		if random.IntN(2) == 0 {
			first = arm()
		}
		p.arms = append(p.arms, first)
	}
	kinds, at := blowsOf(p.world), time.Duration(0)
	for range 2 + random.IntN(3) {
		at += time.Duration(300+random.IntN(1500)) * time.Millisecond
		b := blow{at: at, what: kinds[random.IntN(len(kinds))], who: random.IntN(p.replicas), long: time.Duration(200+random.IntN(1800)) * time.Millisecond}
		switch b.what {
		case "kill":
			if random.IntN(3) > 0 {
				b.arm = arm()
			}
		case "stop":
			b.long += 4500 * time.Millisecond // past the ack wait
		case "terminate":
			b.arm = string(killpoint.Draining) + ":1"
		case "kill node", "power of a node":
			b.who = random.IntN(3)
		case "split node", "split leader", "split meta leader":
			b.who = random.IntN(3)
			b.long *= 3
		}
		p.blows = append(p.blows, b)
	}
	for _, point := range []killpoint.Point{killpoint.SecretStored, killpoint.ManifestStored, killpoint.DeadLetterDecided, killpoint.DeadLetterDecided} {
		arm := ""
		if random.IntN(2) == 0 {
			arm = fmt.Sprintf("%s:%d", point, 1+random.IntN(2))
		}
		p.commands = append(p.commands, arm)
	}
	p.disturb(random)
	return p
}

// everybody is who a blow is for that falls on all replicas and NATS servers.
const everybody = -1

// disturb adds what stops nothing and spoils much: syncs that take long, and a
// clock that somebody sets.
func (p *plan) disturb(random *rand.Rand) {
	between := func(least, most int) time.Duration {
		return time.Duration(least+random.IntN(most-least)) * time.Millisecond
	}
	if random.IntN(3) == 0 {
		b := blow{at: between(200, 3000), what: "slow disk", who: everybody, turn: between(50, 500)}
		p.blows = append(p.blows, b, blow{at: b.at + between(1000, 4000), what: b.what, who: b.who})
	}
	if random.IntN(3) == 0 {
		jumps := []time.Duration{time.Hour, -time.Hour, 5 * time.Second, -5 * time.Second}
		b := blow{at: between(200, 3000), what: "clock", who: everybody, turn: jumps[random.IntN(len(jumps))]}
		if !p.world.embeds() {
			b.who = random.IntN(p.replicas+1) - 1
		}
		p.blows = append(p.blows, b)
		// Put right again, unless NATS would go back by an hour with that: it
		// goes by this clock alone, and what waits there then waits an hour more.
		if right := between(1000, 4000); b.who != everybody || b.turn < 0 {
			p.blows = append(p.blows, blow{at: b.at + right, what: b.what, who: b.who})
		}
	}
	slices.SortStableFunc(p.blows, func(x, y blow) int { return cmp.Compare(x.at, y.at) })
}

// withoutDials is the plan without what disturb adds.
func (p plan) withoutDials() plan {
	p.blows = slices.DeleteFunc(slices.Clone(p.blows), func(b blow) bool { return b.what == "slow disk" || b.what == "clock" })
	return p
}
