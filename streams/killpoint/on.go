//go:build faults

package killpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// The environment that decides what happens; see the package's description.
const (
	killEnv   = "BACKSTOP_KILL"
	recordEnv = "BACKSTOP_KILL_RECORD"
	brokenEnv = "BACKSTOP_BROKEN"
)

var here struct {
	sync.Mutex
	visits map[Point]int
}

// Here counts a visit, and kills the process if this is the one that was asked for.
func Here(p Point) {
	here.Lock()
	defer here.Unlock()
	if here.visits == nil {
		here.visits = make(map[Point]int)
	}
	here.visits[p]++
	if here.visits[p] == 1 {
		record("visited", p)
	}
	if name, visit := asked(); name == p && visit == here.visits[p] {
		record("killed", p)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it is on its way
	}
}

// asked reads which visit of which point is the last thing that happens.
func asked() (Point, int) {
	name, visit, _ := strings.Cut(os.Getenv(killEnv), ":")
	n, err := strconv.Atoi(visit)
	if name != "" && err != nil {
		panic(killEnv + " has to be a point and a number, such as letter_stored:17")
	}
	return Point(name), n
}

func record(what string, p Point) {
	file := os.Getenv(recordEnv)
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // named by the rig that runs this build
	if err == nil {
		_, err = fmt.Fprintln(f, what, p)
	}
	if err != nil {
		panic(err) // a point that is not noted would count as never reached
	}
	_ = f.Close()
}

// Broken tells whether the mistake is to be made.
func Broken(m Mistake) bool { return os.Getenv(brokenEnv) == string(m) }
